"""What a run under chaos has shown, as figures that each have a goal."""

from __future__ import annotations

import json
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_SHOWN = 20
FAILOVER_S_MAX = 15.0


@dataclass(slots=True)
class Report:
    """The figures of one run. Everything but calls, lives, faults and times should be empty or zero."""

    seed: int
    minutes: float
    faults: Counter[str] = field(default_factory=Counter)
    calls: Counter[str] = field(default_factory=Counter)
    lives: int = 0
    failures: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    slowest: dict[str, float] = field(default_factory=dict)
    failovers_s: list[float] = field(default_factory=list)
    leaderless_after: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    leaks: Mapping[str, Sequence[str]] = field(default_factory=dict)
    history: str = ""
    is_linearizable: bool = False

    def add(self, findings: Mapping[str, Any]) -> None:
        """Take in what one process of clients found."""
        self.calls.update(findings["calls"])
        self.failures += findings["failures"]
        self.wrong += findings["wrong"]
        self.lives += findings["lives"]
        for kind, seconds in findings["slowest"].items():
            self.slowest[kind] = max(seconds, self.slowest.get(kind, 0.0))

    @property
    def offences(self) -> list[str]:
        """Return what must not be, each in a line."""
        found = [f"failed: {one}" for one in self.failures[:_SHOWN]]
        found += [f"wrong: {one}" for one in self.wrong[:_SHOWN]]
        found += [f"lost: {one}" for one in self.lost[:_SHOWN]]
        found += [f"no new leader after {one}" for one in self.leaderless_after]
        if self.leaks:
            found.append(f"leaked: {json.dumps(self.leaks)}")
        if not self.is_linearizable:
            found.append(self.history)
        late = [seconds for seconds in self.failovers_s if seconds > FAILOVER_S_MAX]
        if late:
            found.append(f"fail-overs that took longer than {FAILOVER_S_MAX} s: {late}")
        return found

    def as_json(self) -> dict[str, Any]:
        """Return all figures."""
        return {
            "seed": self.seed,
            "minutes": self.minutes,
            "faults": dict(self.faults),
            "calls": dict(self.calls),
            "lives": self.lives,
            "failures": self.failures,
            "doubleOrLostEffects": self.wrong,
            "slowestS": {kind: round(seconds, 2) for kind, seconds in self.slowest.items()},
            "failoverS": {
                "count": len(self.failovers_s),
                "p50": round(statistics.median(self.failovers_s), 2) if self.failovers_s else None,
                "max": round(max(self.failovers_s), 2) if self.failovers_s else None,
            },
            "sandboxesLost": self.lost,
            "leaks": dict(self.leaks),
            "history": self.history,
            "linearizable": self.is_linearizable,
        }

    def write(self, path: Path) -> None:
        """Write it beside the history."""
        path.write_text(json.dumps(self.as_json(), indent=2) + "\n")

    def describe(self) -> str:
        """Return it for people."""
        figures = self.as_json()
        lines = [
            f"chaos, seed {self.seed}, {self.minutes:.1f} minutes",
            f"  faults            {sum(self.faults.values())}: {dict(self.faults)}",
            f"  calls             {sum(self.calls.values())}: {dict(self.calls)}, {self.lives} sandboxes",
            f"  slowest           {figures['slowestS']}",
            f"  failures          {len(self.failures)}",
            f"  effects wrong     {len(self.wrong)}",
            f"  fail-over         {figures['failoverS']}",
            f"  sandboxes lost    {len(self.lost)}",
            f"  leaks             {sum(map(len, self.leaks.values()))}",
            f"  history           {self.history.splitlines()[0] if self.history else 'none'}",
        ]
        return "\n".join(lines)
