"""What the driver does while Tune runs."""
