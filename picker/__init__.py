"""The endpoint picker: ext_proc server, a request's way, live state, signals, replication."""
