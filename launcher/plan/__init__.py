"""From what was asked to trial folders, written before Ray starts."""
