"""Any Jumanji multi-agent environment behind the interface that the systems use."""
