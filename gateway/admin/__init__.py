"""The admin port: metrics, health, status and a page for people.

May import gateway.telemetry.
"""
