"""The options that a command was given."""
