"""The JaxParty game."""
