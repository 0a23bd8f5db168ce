"""Any Jumanji multi-agent environment as the systems see it."""
