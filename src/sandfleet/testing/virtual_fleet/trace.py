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
from typing import Annotated

import msgspec

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


Positive = Annotated[int, msgspec.Meta(gt=0)]


class _Line(msgspec.Struct, forbid_unknown_fields=True):
    """What a line must be."""

    at_s: Annotated[float, msgspec.Meta(ge=0)]
    id: Annotated[str, msgspec.Meta(min_length=1)]
    memory_mib: Positive
    lifetime_s: Annotated[float, msgspec.Meta(gt=0)]
    cpu_count: Positive = 1
    disk_mib: Positive = 20480
    organisation: str = "a"


def read_trace(path: Path) -> Sequence[Arrival]:
    """Return the arrivals in the order of their time; BadTrace."""
    try:
        with path.open("rb") as lines:
            arrivals = sorted(_arrivals(lines), key=lambda one: (one.at_s, one.id))
    except OSError as error:
        raise BadTrace(error.strerror or str(error)) from error
    if not arrivals:
        raise BadTrace("there is no sandbox in it")
    return arrivals


def write_trace(path: Path, arrivals: Iterable[Arrival]) -> None:
    """Write a file that `read_trace` reads."""
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(asdict(one)) + "\n" for one in arrivals)


def _arrivals(lines: Iterable[bytes]) -> Iterator[Arrival]:
    known: dict[str, int] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            arrival = Arrival(**msgspec.structs.asdict(msgspec.json.decode(line, type=_Line)))
        except msgspec.MsgspecError as error:
            raise BadTrace(f"line {number}: {error}") from error
        if arrival.id in known:
            raise BadTrace(f"line {number}: the id {arrival.id} stands in line {known[arrival.id]} as well")
        known[arrival.id] = number
        yield arrival
