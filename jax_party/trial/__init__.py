"""What a trial leaves on disk, and the one way to read and write it."""
