"""The one place that decides which configuration is better. Pure functions; imports neither JAX nor Ray nor pandas."""
