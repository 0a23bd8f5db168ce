"""Who is better: the one place that says it. Pure functions of numbers; imports neither JAX nor Ray nor pandas."""
