"""The admin API and its page: status, health, metrics; tenants, keys, limits, usage."""
