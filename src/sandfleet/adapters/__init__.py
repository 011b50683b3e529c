"""The I/O: one folder per technology."""
