"""Torsos and heads, in flax.linen."""
