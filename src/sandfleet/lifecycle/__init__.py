"""What may happen: one transition table per noun."""
