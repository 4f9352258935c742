"""Which endpoint has how much of a prompt cached."""
