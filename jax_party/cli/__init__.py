"""Shared code of the command lines of one experiment: arguments, errors, and terminal output."""
