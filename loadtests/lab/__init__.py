"""The lab: routing policies compared in virtual time, gateways compared over HTTP, and the reports
about them."""
