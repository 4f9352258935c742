"""What the picker needs of others, as protocols, each with a stand-in that does nothing."""
