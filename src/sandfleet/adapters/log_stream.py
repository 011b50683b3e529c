"""Where log lines go: a line that cannot be written is lost, and never the work that it tells of."""

from __future__ import annotations

from contextlib import suppress
from typing import Any, TextIO


class LossyStream:
    """A text stream whose full disk or closed pipe is nobody's error."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.lost = 0
        """Lines that could not be written."""

    def write(self, text: str) -> int:
        """Write, or count as lost."""
        try:
            return self._stream.write(text)
        except OSError:
            self.lost += 1
            return 0

    def flush(self) -> None:
        """Flush what can be."""
        with suppress(OSError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
