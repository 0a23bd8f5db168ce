"""Tune's searchers and schedulers behind our plans."""
