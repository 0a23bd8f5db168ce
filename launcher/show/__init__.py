"""What a sweep prints and reports while it runs and at its end."""
