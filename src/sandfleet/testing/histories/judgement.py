"""Judges a whole recorded history: every sandbox on its own, and the leader's term.

Sandboxes are independent of each other, so each is searched alone. Calls belong together when they
name the same idempotency key, or a sandbox that a create under that key answered.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from sandfleet.testing.histories import leader_models, sandbox_steps
from sandfleet.testing.histories.linearizability import Finding, Step, Verdict, check
from sandfleet.testing.histories.records import Record
from sandfleet.testing.histories.sandbox_model import SandboxModel

TERM = "term"
_BLOCKED_SHOWN = 5
_ORDER_SHOWN = 12


@dataclass(frozen=True, slots=True)
class Judgement:
    """What was found of each register."""

    calls: int
    findings: Mapping[str, Finding]

    @property
    def offences(self) -> Mapping[str, Finding]:
        """Return what was not found linearizable, undecided searches among it."""
        return {
            name: finding
            for name, finding in self.findings.items()
            if finding.verdict is not Verdict.LINEARIZABLE
        }

    @property
    def is_linearizable(self) -> bool:
        """Whether every register is."""
        return not self.offences

    def describe(self) -> str:
        """Return the judgement in words, offences with their reason."""
        registers = f"{self.calls} calls on {len(self.findings)} registers"
        if self.is_linearizable:
            return f"linearizable: {registers}"
        told = "\n".join(_explain(name, finding) for name, finding in self.offences.items())
        return f"{len(self.offences)} of {registers} are not linearizable:\n{told}"


def judge(records: Iterable[Record]) -> Judgement:
    """Return what a history shows."""
    calls = list(records)
    findings: dict[str, Finding] = {}
    about_term = [
        step for record in calls if record.subject == TERM for step in leader_models.term_steps(record)
    ]
    if about_term:
        findings[TERM] = check(about_term, leader_models.TermModel())
    for name, steps in _by_sandbox(calls).items():
        findings[name] = check(steps, SandboxModel())
    return Judgement(len(calls), findings)


def _by_sandbox(calls: list[Record]) -> dict[str, list[Step]]:
    ours = [record for record in calls if record.kind in sandbox_steps.KINDS]
    keys: dict[str, str] = {}
    for record in ours:
        if record.kind == "create" and record.answer is not None:
            keys.setdefault(record.answer, record.subject)
    groups: defaultdict[str, list[Step]] = defaultdict(list)
    for record in ours:
        # An id under two keys brings both creates together, where they cannot both fit.
        sandbox_id = record.answer if record.kind == "create" else record.subject
        name = keys.get(sandbox_id or "", record.subject)
        groups[name].extend(sandbox_steps.steps_of(record))
    return dict(groups)


def _explain(name: str, finding: Finding) -> str:
    lines = [f"- {name}: {finding.verdict} after {finding.configurations} configurations; {finding.state}"]
    lines += [f"    fits:   {step.name:17} {step.origin}" for step in finding.order[-_ORDER_SHOWN:]]
    lines += [f"    cannot: {step.name:17} {step.origin}" for step in finding.blocked[:_BLOCKED_SHOWN]]
    return "\n".join(lines)
