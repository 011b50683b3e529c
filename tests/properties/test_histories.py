"""The judge of histories: it accepts whatever one sandbox can show, and refuses what none can."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sandfleet.testing.check_history import main
from sandfleet.testing.histories.judgement import judge
from sandfleet.testing.histories.leader_models import LeaseModel, TermModel, lease_steps, term_steps
from sandfleet.testing.histories.linearizability import Step, Verdict, check
from sandfleet.testing.histories.recorder import Recorder
from sandfleet.testing.histories.records import MalformedHistory, Record, parse
from sandfleet.testing.histories.sandbox_model import SandboxModel, SandboxState

KEY, ID = "key", "sb-1"


class OneSandbox:
    """A correct sandbox that does one step at a time, and its clients, who overlap as the dice say."""

    def __init__(self, seed: int, *, may_lose_answers: bool) -> None:
        self._dice = random.Random(seed)
        self._loses = may_lose_answers
        self._clock = itertools.count(1)
        self._state = "absent"
        self._changes = 0
        self.records: list[Record] = []

    def play(self, *, clients: int, calls: int) -> list[Record]:
        """Let the clients make their calls and return what they saw."""
        self._run([self._create("c0")])
        waiting = [
            self._dice.choice(
                [self._create, self._get, self._get, self._delete, self._hibernate, self._wake, self._touch]
            )(f"c{number % clients}")
            for number in range(calls)
        ]
        self._run(waiting)
        return self.records

    def _run(self, waiting: list[Iterator[None]]) -> None:
        active: list[Iterator[None]] = []
        while waiting or active:
            if waiting and (not active or (len(active) < 3 and self._dice.random() < 0.5)):
                active.append(waiting.pop(0))
            one = self._dice.choice(active)
            if next(one, "over") == "over":
                active.remove(one)

    def _record(self, process: str, kind: str, begun: float, answer: str | None, error: str | None) -> None:
        subject = KEY if kind == "create" else ID
        end: float = next(self._clock)
        if self._loses and self._dice.random() < 0.2 and (process, kind) != ("c0", "create"):
            end, answer, error = float("inf"), None, None
        self.records.append(
            Record(
                process=process,
                kind=kind,
                subject=subject,
                invoked_at=begun,
                returned_at=end,
                answer=answer,
                error=error,
            )
        )

    def _create(self, process: str) -> Iterator[None]:
        begun = next(self._clock)
        yield
        if self._state == "absent":
            self._become("creating")
        yield
        if self._state == "creating":
            self._become("running")
        yield
        self._record(process, "create", begun, ID, None)

    def _get(self, process: str) -> Iterator[None]:
        begun = next(self._clock)
        yield
        seen = self._state
        yield
        self._record(process, "get", begun, seen, None)

    def _delete(self, process: str) -> Iterator[None]:
        begun = next(self._clock)
        yield
        self._become("stopped")
        yield
        self._record(process, "delete", begun, None, None)

    def _become(self, state: str) -> int:
        """Change the state and return which change it was: a later one ends what this one began."""
        self._state = state
        self._changes += 1
        return self._changes

    def _hibernate(self, process: str) -> Iterator[None]:
        return self._verb(process, "hibernate", begins="running", middle="hibernating", ends="hibernated")

    def _wake(self, process: str) -> Iterator[None]:
        return self._verb(process, "wake", begins="hibernated", middle="waking", ends="running")

    def _verb(self, process: str, kind: str, *, begins: str, middle: str, ends: str) -> Iterator[None]:
        begun = next(self._clock)
        yield
        refused = {"hibernate": ("hibernated", "hibernating"), "wake": ("running",)}[kind]
        while self._state not in (begins, *refused, "stopped"):
            yield
        if self._state != begins:
            code = "gone" if self._state == "stopped" else f"not_{begins}"
            yield
            self._record(process, kind, begun, None, code)
            return
        attempt = self._become(middle)
        yield
        works = self._dice.random() < 0.8
        if self._changes == attempt:
            self._become(ends if works else begins)
            yield
            error = None if works else ("agent_unresponsive" if kind == "hibernate" else "no_capacity")
            self._record(process, kind, begun, ends if works else None, error)
        elif self._state == "stopped":
            self._record(process, kind, begun, None, "gone")
        else:
            # A call on what is inside has ended the wake for all who wait for it.
            self._record(process, kind, begun, ends, None)

    def _touch(self, process: str) -> Iterator[None]:
        begun = next(self._clock)
        yield
        while self._state in ("hibernating", "waking", "creating"):
            yield
        if self._state == "hibernated":
            self._become("waking")
            yield
            if self._state == "waking":
                self._become("running")
        yield
        # What came in between is waited for again.
        while self._state not in ("running", "stopped"):
            if self._state == "hibernated":
                self._become("waking")
            elif self._state == "waking":
                self._become("running")
            yield
        error = None if self._state == "running" else "gone"
        yield
        self._record(process, "touch", begun, None, error)


@settings(derandomize=True)
@given(seed=st.integers(0, 10**9), clients=st.integers(1, 4), calls=st.integers(1, 14))
@example(seed=2915, clients=4, calls=7)  # a wake that a call on what is inside ends
def test_whatever_a_correct_sandbox_shows_is_accepted(seed: int, clients: int, calls: int) -> None:
    records = OneSandbox(seed, may_lose_answers=True).play(clients=clients, calls=calls)
    judgement = judge(records)
    assert judgement.is_linearizable, judgement.describe()


def _later(records: list[Record]) -> float:
    return max((one.returned_at for one in records if one.returned_at < float("inf")), default=0) + 10


def _stale_read(records: list[Record]) -> Record:
    return _read("creating", _later(records))


def _lost_delete(records: list[Record]) -> list[Record]:
    at = _later(records)
    killed = Record(process="m", kind="delete", subject=ID, invoked_at=at, returned_at=at + 1)
    return [killed, _read("running", at + 2)]


def _double_create(records: list[Record]) -> Record:
    at = _later(records)
    return Record(process="m", kind="create", subject=KEY, invoked_at=at, returned_at=at + 1, answer="sb-2")


def _id_of_another(records: list[Record]) -> Record:
    at = _later(records)
    return Record(process="m", kind="create", subject="other", invoked_at=at, returned_at=at + 1, answer=ID)


def _lost_sandbox(records: list[Record]) -> Record:
    return _read("error", _later(records))


def _read(status: str, at: float) -> Record:
    return Record(process="m", kind="get", subject=ID, invoked_at=at, returned_at=at + 1, answer=status)


@pytest.mark.parametrize("spoil", [_stale_read, _lost_delete, _double_create, _id_of_another, _lost_sandbox])
@settings(derandomize=True)
@given(seed=st.integers(0, 10**9), calls=st.integers(1, 10), loses=st.booleans())
def test_what_no_sandbox_can_show_is_refused(
    spoil: Callable[[list[Record]], Record | list[Record]], seed: int, calls: int, loses: bool
) -> None:
    records = OneSandbox(seed, may_lose_answers=loses).play(clients=3, calls=calls)
    more = spoil(records)
    spoilt = [*records, *(more if isinstance(more, list) else [more])]
    assert not judge(spoilt).is_linearizable, [one.describe() for one in spoilt]


@settings(derandomize=True)
@given(seed=st.integers(0, 10**9), calls=st.integers(1, 12))
def test_when_all_were_answered_nothing_stays_in_a_middle_state(seed: int, calls: int) -> None:
    records = OneSandbox(seed, may_lose_answers=False).play(clients=3, calls=calls)
    at = _later(records)
    possible = {
        status
        for status in ("absent", "creating", "hibernating", "waking", "running", "hibernated", "stopped")
        if judge([*records, _read(status, at)]).is_linearizable
    }
    told = [one.describe() for one in records]
    assert possible, told
    assert possible <= {"running", "hibernated", "stopped"}, (possible, told)


def test_a_status_from_before_an_answered_verb_is_stale() -> None:
    create = Record(process="a", kind="create", subject=KEY, invoked_at=0, returned_at=1, answer=ID)
    saved = Record(
        process="a", kind="hibernate", subject=ID, invoked_at=2, returned_at=5, answer="hibernated"
    )
    for status, at, fits in (
        ("running", 3.0, True),
        ("hibernating", 3.0, True),
        ("hibernated", 3.0, True),
        ("running", 6.0, False),
        ("hibernating", 6.0, False),
        ("hibernated", 6.0, True),
    ):
        assert judge([create, saved, _read(status, at)]).is_linearizable is fits, (status, at)


def test_a_wake_that_is_told_gone_has_seen_the_end() -> None:
    create = Record(process="a", kind="create", subject=KEY, invoked_at=0, returned_at=1, answer=ID)
    saved = Record(
        process="a", kind="hibernate", subject=ID, invoked_at=2, returned_at=5, answer="hibernated"
    )
    wake = Record(process="b", kind="wake", subject=ID, invoked_at=3, returned_at=6, error="gone")
    touch = Record(process="c", kind="touch", subject=ID, invoked_at=4, returned_at=8)
    kill = Record(process="d", kind="delete", subject=ID, invoked_at=5)
    assert not judge([create, saved, wake]).is_linearizable
    assert judge([create, saved, wake, kill]).is_linearizable
    assert judge([create, saved, wake, kill, replace(touch, error="gone")]).is_linearizable
    assert not judge([create, saved, wake, kill, replace(touch, invoked_at=7)]).is_linearizable


def test_an_unanswered_kill_may_happen_at_any_later_time_but_not_be_undone() -> None:
    create = Record(process="a", kind="create", subject=KEY, invoked_at=0, returned_at=1, answer=ID)
    kill = Record(process="a", kind="delete", subject=ID, invoked_at=2)
    assert judge([create, kill, _read("running", 50), _read("stopped", 60)]).is_linearizable
    assert not judge([create, kill, _read("stopped", 50), _read("running", 60)]).is_linearizable


@settings(derandomize=True)
@given(seed=st.integers(0, 10**9))
def test_the_search_agrees_with_trying_every_order(seed: int) -> None:
    dice = random.Random(seed)
    names = ("create_begins", "create_ends", "killed", "hibernate_begins", "hibernate_ends", "is_running")
    steps = []
    for _ in range(dice.randrange(1, 6)):
        begin = dice.randrange(8)
        certain = dice.random() < 0.7
        end = begin + dice.randrange(1, 6) if certain or dice.random() < 0.5 else float("inf")
        steps.append(Step(name=dice.choice(names), invoked_at=begin, returned_at=end, is_certain=certain))
    assert (check(steps, SandboxModel()).verdict is Verdict.LINEARIZABLE) is _some_order_fits(steps)


def _some_order_fits(steps: list[Step]) -> bool:
    certain = [step for step in steps if step.is_certain]
    perhaps = [step for step in steps if not step.is_certain]
    for count in range(len(perhaps) + 1):
        for chosen in itertools.combinations(perhaps, count):
            for order in itertools.permutations([*certain, *chosen]):
                if _respects_time(order) and _is_allowed(order):
                    return True
    return False


def _respects_time(order: tuple[Step, ...]) -> bool:
    return all(later.returned_at >= earlier.invoked_at for earlier, later in itertools.combinations(order, 2))


def _is_allowed(order: tuple[Step, ...]) -> bool:
    model = SandboxModel()
    states: set[SandboxState] = {model.initial}
    for step in order:
        states = {after for state in states for after in model.after(state, step)}
    return bool(states)


def test_a_search_that_meets_its_bound_decides_nothing() -> None:
    perhaps = [Step(name="killed", invoked_at=0, is_certain=False) for _ in range(40)]
    begins = Step(name="create_begins", invoked_at=0, returned_at=1)
    wrong = Step(name="shows", answer="error", invoked_at=2, returned_at=3)
    finding = check([*perhaps, begins, wrong], SandboxModel(), configurations_max=20)
    assert finding.verdict is Verdict.UNDECIDED


def _term(kind: str, begin: float, answer: str) -> Record:
    return Record(
        process="s", kind=kind, subject="term", invoked_at=begin, returned_at=begin + 1, answer=answer
    )


def test_a_term_never_falls_has_one_holder_and_fences_the_one_before() -> None:
    first, second = _term("raise", 0, "1 a"), _term("raise", 2, "2 b")
    cases = [
        ([_term("read", 4, "2 b")], True),
        ([_term("read", 4, "1 a")], False),
        ([_term("read", 4, "2 a")], False),
        ([_term("raise", 4, "2 b")], False),
        ([_term("effect", 4, "2")], True),
        ([_term("effect", 4, "1")], False),
        ([_term("effect", 2.5, "1")], True),
        ([_term("refusal", 4, "1")], True),
        ([_term("refusal", 0.5, "1")], False),
        ([_term("read", 4, "5 c"), _term("read", 6, "4 b")], False),
    ]
    for more, fits in cases:
        steps = [step for record in (first, second, *more) for step in term_steps(record)]
        assert (check(steps, TermModel()).verdict is Verdict.LINEARIZABLE) is fits, more


@settings(derandomize=True)
@given(seed=st.integers(0, 10**9))
def test_what_a_correct_lease_shows_is_accepted_and_two_holders_are_not(seed: int) -> None:
    dice = random.Random(seed)
    ttl_s, at = 10.0, 0.0
    holder, until = None, 0.0
    records: list[Record] = []
    for _ in range(20):
        at += dice.uniform(0.5, 6.0)
        who, kind = dice.choice("abc"), dice.choice(("acquire", "extend", "release"))
        held = holder if at < until else None
        granted = {"acquire": held in (None, who), "extend": held == who, "release": True}[kind]
        if granted:
            # It ends somewhat late at most: the store counts from when it heard of it.
            holder, until = (
                (None, 0.0)
                if kind == "release" and held == who
                else ((holder, until) if kind == "release" else (who, at + ttl_s))
            )
        records.append(_of_lease(who, kind, at, "yes" if granted else "no"))
    assert _lease_verdict(records, ttl_s) is Verdict.LINEARIZABLE, records
    at += ttl_s * 2
    both = [_of_lease("a", "acquire", at, "yes"), _of_lease("b", "acquire", at + 1, "yes")]
    assert _lease_verdict([*records, *both], ttl_s) is Verdict.VIOLATED


def _of_lease(who: str, kind: str, at: float, answer: str) -> Record:
    return Record(
        process=who, kind=kind, subject="lease", invoked_at=at - 0.1, returned_at=at + 0.1, answer=answer
    )


def _lease_verdict(records: list[Record], ttl_s: float) -> Verdict:
    steps = [
        step
        for number, record in enumerate(records)
        for step in lease_steps(record, number=number, ttl_s=ttl_s)
    ]
    return check(steps, LeaseModel()).verdict


def test_a_recorded_history_is_read_back_and_judged(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "history.jsonl"
    with Recorder(path, "a") as one, Recorder(path, "b") as other:
        created = one.invoke("create", KEY)
        again = other.invoke("create", KEY)
        one.returned(created, ID)
        other.returned(again, ID)
        killed = other.invoke("delete", ID)
        other.unknown(killed, "not_ready")
        refused = one.invoke("touch", ID)
        one.failed(refused, "gone")
        one.invoke("get", ID)  # whoever asked died before the answer
    calls = parse(path.read_text().splitlines())
    assert [call.kind for call in calls] == ["create", "create", "delete", "touch", "get"]
    assert calls[3].error == "gone"
    assert main([str(path)]) == 0
    assert "5 calls on 1 registers" in capsys.readouterr().out
    with Recorder(path, "c") as third:
        third.returned(third.invoke("get", ID), "running")
    assert main([str(path)]) == 1
    told = capsys.readouterr().out
    assert "not linearizable" in told
    assert "c: get sb-1 -> running" in told


@pytest.mark.parametrize(
    "line",
    [
        "{",
        json.dumps({"process": "a", "number": 1, "event": "return", "at": 1.0}),
        json.dumps({"process": "a", "number": 1, "event": "invoke", "at": 1.0}),
    ],
)
def test_what_is_no_history_is_named(line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(MalformedHistory, match="line 1"):
        parse([line])
    path = tmp_path / "history.jsonl"
    path.write_text(line)
    assert main([str(path)]) == 2
    assert main([]) == 2
    assert main([str(tmp_path / "missing")]) == 2
    assert "line 1" in capsys.readouterr().err


def test_an_unknown_answer_is_replaced_in_place() -> None:
    record = _read("running", 1.0)
    assert record.is_answered
    assert not replace(record, error="gone").is_answered
