"""The admin port: metrics, health, status and a page for people; tenants, keys, limits and usage.

May import gateway.telemetry, gateway.tenancy, gateway.limits, gateway.control, policies and how the
picker writes users' names.
"""
