"""Training of one experiment: train, evaluate, record, checkpoint; and the compiled functions behind it."""
