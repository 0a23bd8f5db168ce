"""Search spaces over the trainer's own keys, and their checked form (`sweeps.space`)."""
