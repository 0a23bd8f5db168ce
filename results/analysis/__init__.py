"""Comparisons, importance and statistics of tables."""
