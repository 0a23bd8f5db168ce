"""The systems: one file per family."""
