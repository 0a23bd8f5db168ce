"""What the command lines of one experiment share: words, errors, what the terminal shows."""
