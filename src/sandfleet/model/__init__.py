"""The nouns of sandfleet: frozen values without I/O."""
