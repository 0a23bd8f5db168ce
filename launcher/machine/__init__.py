"""The hardware that a sweep runs on: this machine, or a Ray cluster."""
