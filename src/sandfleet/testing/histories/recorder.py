"""Writes histories: one recorder for each process or task, all into one file or each into its own.

A line is written whole and at once, so that a process which is killed leaves at worst a call that
nobody knows the end of.
"""

from __future__ import annotations

import itertools
import json
import os
import time
from pathlib import Path
from types import TracebackType

from sandfleet.testing.histories.records import FAIL, INVOKE, RETURN, UNKNOWN


class Recorder:
    """Appends the calls of one process to a file."""

    def __init__(self, path: Path, process: str) -> None:
        self._process = process
        self._numbers = itertools.count(1)
        # Appending is atomic for lines of this length, so many writers may share a file.
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    def __enter__(self) -> Recorder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)

    def invoke(self, kind: str, subject: str) -> int:
        """Note that a call begins; return its number."""
        number = next(self._numbers)
        self._write(number, INVOKE, kind=kind, subject=subject)
        return number

    def returned(self, number: int, answer: str | None = None) -> None:
        """Note that it was answered."""
        self._write(number, RETURN, answer=answer)

    def failed(self, number: int, error: str) -> None:
        """Note that it was refused, by which code."""
        self._write(number, FAIL, error=error)

    def unknown(self, number: int, error: str) -> None:
        """Note that nobody knows how it went, or will go."""
        self._write(number, UNKNOWN, error=error)

    def _write(self, number: int, event: str, **more: str | None) -> None:
        entry = {"process": self._process, "number": number, "event": event, "at": time.monotonic(), **more}
        os.write(self._file, (json.dumps(entry) + "\n").encode())
