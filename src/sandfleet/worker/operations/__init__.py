"""What a worker does, one verb a file."""
