"""The admin port: metrics, health, status and a page for people; tenants, keys, limits, usage."""
