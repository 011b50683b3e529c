"""Small interfaces, owned by their consumer, with the contract in their docstrings."""
