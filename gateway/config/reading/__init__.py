"""From a file to an accepted configuration, or to every problem in it."""
