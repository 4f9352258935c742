"""Live state: endpoints, models, sessions, caches. No I/O and no clock: time is passed in."""
