"""Sweeps on Ray Tune: `python -m launcher.sweep`. Nothing in here imports JAX in the driver process."""
