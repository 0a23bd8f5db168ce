"""What a command was asked."""
