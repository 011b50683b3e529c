"""The rows of the table, one a file: each has `async def measure(bed) -> list[Row]`."""
