"""Sweeps on Ray Tune: `python -m launcher.sweep`. Nothing here imports JAX in the driver process."""
