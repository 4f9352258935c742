"""Child processes: started, watched, restarted, stopped, never leaked."""
