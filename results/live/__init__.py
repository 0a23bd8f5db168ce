"""What follows trial folders as they change."""
