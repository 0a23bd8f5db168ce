"""The verbs of `python -m launcher.sweep`, one module per verb."""
