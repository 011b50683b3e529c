"""sandfleet: a self-hosted platform that gives every AI agent its own real computer."""

__version__ = "0.1.0"
