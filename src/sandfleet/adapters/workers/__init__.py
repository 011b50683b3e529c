"""Calls to workers over HTTP."""
