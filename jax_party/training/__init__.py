"""One experiment in time: train, evaluate, record, checkpoint; and the compiled functions that do it."""
