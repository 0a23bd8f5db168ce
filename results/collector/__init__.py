"""Reads trial folders and writes a sweep's index."""
