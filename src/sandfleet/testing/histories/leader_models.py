"""What the leader's lease and term promise.

Term: a number that only rises; each number was raised once, by one holder; an effect is accepted under
the newest number only.
Lease: held by one at a time. It ends when its holder gives it up, when its store is flushed, and not
before its length has passed since it was last asked for.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from sandfleet.testing.histories.linearizability import Step
from sandfleet.testing.histories.records import Record


@dataclass(frozen=True, slots=True)
class Term:
    """The newest number and who raised it."""

    number: int = 0
    holder: str | None = None


class TermModel:
    """The term. `answer` of a step is `number holder`, of an effect the number it named."""

    initial = Term()

    def after(self, state: Term, step: Step) -> Iterable[Term]:
        """Return where `step` leads from `state`."""
        number_text, _, holder = (step.answer or "0").partition(" ")
        number = int(number_text)
        if step.name == "raised":
            return (Term(number, holder),) if number == state.number + 1 else ()
        if step.name == "accepted":
            return (state,) if number == state.number else ()
        if step.name == "refused":
            return (state,) if number < state.number else ()
        return self._read(state, Term(number, holder or None))

    def _read(self, state: Term, read: Term) -> Iterable[Term]:
        # Elections that nobody recorded are believed: a reading may find a later term, never an earlier one.
        is_later = read.number > state.number
        return (read,) if is_later or read == state else ()


def term_steps(record: Record) -> list[Step]:
    """Return the steps of one record about the term."""
    names = {"raise": "raised", "effect": "accepted", "refusal": "refused", "read": "read"}
    if not record.is_answered:
        return []
    return [
        Step(
            name=names[record.kind],
            invoked_at=record.invoked_at,
            returned_at=record.returned_at,
            answer=record.answer,
            origin=record.describe(),
        )
    ]


@dataclass(frozen=True, slots=True)
class Lease:
    """Who holds it, and by which grant."""

    holder: str | None = None
    grant: str = ""


class LeaseModel:
    """The lease. `answer` of a step is `holder grant`, each grant named once."""

    initial = Lease()

    def after(self, state: Lease, step: Step) -> Iterable[Lease]:
        """Return where `step` leads from `state`."""
        holder, _, grant = (step.answer or "").partition(" ")
        is_mine = state.holder == holder
        if step.name == "granted":
            return (Lease(holder, grant),) if state.holder is None or is_mine else ()
        if step.name == "extended":
            return (Lease(holder, grant),) if is_mine else ()
        if step.name == "denied":
            return (state,) if state.holder is not None and not is_mine else ()
        if step.name == "not_extended":
            return () if is_mine else (state,)
        if step.name == "released":
            return (Lease() if is_mine else state,)
        return (Lease(),) if step.name == "flushed" or state.grant == grant else ()


_OF_LEASE = {
    ("acquire", "yes"): "granted",
    ("acquire", "no"): "denied",
    ("extend", "yes"): "extended",
    ("extend", "no"): "not_extended",
    ("release", "yes"): "released",
    ("flush", "yes"): "flushed",
}


def lease_steps(record: Record, *, number: int, ttl_s: float) -> list[Step]:
    """Return the steps of one record about the lease, and the end that its grant comes to by itself."""
    grant = f"{record.process} {number}"
    answer = record.answer if record.is_answered else "yes"
    step = Step(
        name=_OF_LEASE[record.kind, answer or "yes"],
        invoked_at=record.invoked_at,
        returned_at=record.returned_at,
        answer=grant,
        is_certain=record.is_answered,
        origin=record.describe(),
    )
    if step.name not in ("granted", "extended"):
        return [step]
    expiry = Step(
        name="expired",
        invoked_at=record.invoked_at + ttl_s,
        answer=grant,
        is_certain=False,
        origin=f"the end of {record.describe()}",
    )
    return [step, expiry]
