"""Fleets of thousands of hosts on virtual time, run by the real planners, without any host."""
