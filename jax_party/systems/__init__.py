"""The systems: one file a family."""
