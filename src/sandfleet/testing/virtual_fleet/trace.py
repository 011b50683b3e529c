"""Traces: who asked for a sandbox when, of which size, and for how long it was there.

A trace is a file of JSON lines, one sandbox each, in any order:

    {"at_s": 12.5, "id": "sb-1", "memory_mib": 4096, "lifetime_s": 600,
     "cpu_count": 1, "disk_mib": 20480, "organisation": "a"}

`at_s` counts from the beginning of the trace, `lifetime_s` from the moment at which the sandbox
got its place; hibernated times are separate lines. The last three may be left out.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from sandfleet.model.resources import Resources


@dataclass(frozen=True, slots=True)
class Arrival:
    """One line."""

    at_s: float
    id: str
    memory_mib: int
    lifetime_s: float
    cpu_count: int = 1
    disk_mib: int = 20480
    organisation: str = "a"

    @property
    def resources(self) -> Resources:
        """Return its size."""
        return Resources(self.memory_mib, self.cpu_count, self.disk_mib)


class BadTrace(ValueError):
    """A line that is no arrival; the message names it."""


def read_trace(path: Path) -> Sequence[Arrival]:
    """Return the arrivals in the order of their time; BadTrace."""
    with path.open(encoding="utf-8") as lines:
        return sorted(_arrivals(lines), key=lambda one: (one.at_s, one.id))


def write_trace(path: Path, arrivals: Iterable[Arrival]) -> None:
    """Write a file that `read_trace` reads."""
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(asdict(one)) + "\n" for one in arrivals)


def _arrivals(lines: Iterable[str]) -> Iterator[Arrival]:
    known: set[str] = set()
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            arrival = Arrival(**json.loads(line))
            is_sound = arrival.at_s >= 0 and arrival.lifetime_s > 0 and arrival.memory_mib > 0
        except (TypeError, ValueError) as error:
            raise BadTrace(f"line {number}: {error}") from error
        if not is_sound or arrival.id in known:
            raise BadTrace(
                f"line {number}: a time before the beginning, nothing to hold, or an id seen before"
            )
        known.add(arrival.id)
        yield arrival
