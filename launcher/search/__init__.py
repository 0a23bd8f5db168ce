"""Tune's searchers and schedulers, adapted to our plans."""
