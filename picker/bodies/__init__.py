"""Work on whole request bodies: what it may cost, reading, changing, decoding; pure functions, and
the process in which they run when they take long."""
