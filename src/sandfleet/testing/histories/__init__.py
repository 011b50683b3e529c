"""Histories of what clients saw, and whether one thing that does one step at a time could have shown it."""
