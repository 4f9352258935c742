"""Which of the requests that wait for a pool goes next, and which are turned away. Pure."""
