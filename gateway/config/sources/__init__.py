"""Where the configuration comes from, and how its changes arrive."""
