"""Turn the options of a sweep into trial folders, before Ray starts."""
