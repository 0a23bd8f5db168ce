"""What there is to run on: this machine, or a Ray cluster."""
