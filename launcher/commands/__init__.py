"""The verbs of `python -m launcher.sweep`, a module each."""
