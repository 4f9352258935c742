"""Exchange between pickers: what each sent where, and how it ended."""
