"""One file per operation; `table` knows them by name."""
