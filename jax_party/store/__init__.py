"""Folders and files, on a local disk or on object storage."""
