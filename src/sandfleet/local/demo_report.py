"""What the demo found: its steps, whether each was verified, and the times it measured."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

Say = Callable[[str], object]


class NotVerified(Exception):
    """A step's result is not what it has to be."""


@dataclass(frozen=True, slots=True)
class Step:
    """One step of the tour. `problem` is empty when it was verified."""

    title: str
    seconds: float
    facts: tuple[str, ...] = ()
    problem: str = ""


@dataclass(slots=True)
class DemoReport:
    """All steps in order, and measured times by name (milliseconds, or MiB per second)."""

    steps_planned: int
    steps: list[Step] = field(default_factory=list)
    measured: dict[str, float] = field(default_factory=dict)

    @property
    def is_complete(self) -> bool:
        """Whether every planned step was done and verified."""
        return len(self.steps) == self.steps_planned and not any(step.problem for step in self.steps)

    def as_json(self) -> dict[str, Any]:
        """Return it for programs."""
        return {
            "complete": self.is_complete,
            "steps": [
                {
                    "title": step.title,
                    "verified": not step.problem,
                    "seconds": round(step.seconds, 3),
                    "facts": list(step.facts),
                    "problem": step.problem or None,
                }
                for step in self.steps
            ],
            "measured": {name: round(value, 2) for name, value in self.measured.items()},
        }

    def show(self, say: Say) -> None:
        """Print the table of times and how to go on."""
        say("")
        say("Measured on this machine:")
        for name, value in self.measured.items():
            unit = "MiB/s" if name.endswith("load") else "ms"
            say(f"  {name:<44}{value:>9.1f} {unit}")
        say("")
        if not self.is_complete:
            say("NOT everything was verified. `sandfleet doctor` and `sandfleet status` may say why.")
            return
        say(f"All {self.steps_planned} steps were verified. The fleet stays up. Go on with:")
        say("  sandfleet create --alias mine")
        say("  sandfleet exec mine -- bash -c 'uname -a; free -m; df -h /workspace'")
        say("  sandfleet cp README.md mine:/workspace/")
        say("  sandfleet rm mine")
        say("  sandfleet up --workers 1    take the second worker out again, which the move needed")
        say("  sandfleet status            the URL and the key for other programs")
        say("  sandfleet down              end the fleet; --stop-sandboxes ends the VMs as well")
