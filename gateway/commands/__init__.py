"""Commands that talk to the admin API of a running Penstock, a module for each group."""
