"""Every fault at every step: whatever dies, fills up or fails while a sandbox is created, saved, woken,
restored, forked or deleted, it is afterwards as it was or as it should be, and nothing is left behind.

`make chaos` runs the matrix on one fleet: each point of each verb with the death of the process that
passes it and, in turn, with what else may happen meanwhile.
With SANDFLEET_FAULTS="hibernate/save.written/qemu …" only those are run.
"""

from __future__ import annotations

import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.acceptance.census import (
    leftovers_of_snapshots,
    machines_of,
    pieces_of_nobody,
    qemu_processes,
    take_census,
    wait_for_no_leak,
)
from tests.acceptance.faults import (
    ALSO,
    BETWEEN_WORKERS,
    ELSEWHERE,
    ORDERS,
    OUTSIDE,
    VERBS,
    Faults,
    all_points,
    end_on_small_disk,
    points_of,
    small_disk,
)
from tests.acceptance.live_fleet import LiveFleet, start_fleet, wait_until
from tests.acceptance.write_load import Checked, begin_load, check_load

from sandfleet.planning.repair import RECOVERIES_MAX
from sandfleet.testing.disposable_fleets import disposable_directory

pytestmark = [pytest.mark.timeout(300)]

SETTLED = ("running", "hibernated", "stopped", "failed", "error")
OTHERS = ("enospc", *OUTSIDE)
BEFORE_HAND_OVER = (
    "migrate.receive",
    "migrate.send.begun",
    "land.listening",
    "send.mirroring",
    "send.in_step",
    "send.copying",
    "send.paused",
    "send.drained",
)
AFTER_ARRIVAL = ("migrate.arrive", "land.running", "release.clear")
SETTLE_S = 120.0
LEAK_S = 90.0


def test_each_point_belongs_to_a_verb() -> None:
    covered = {point for verb in VERBS for point in points_of(verb)}
    missing = [point for point in all_points() if point not in covered and not point.startswith(ELSEWHERE)]
    assert missing == [], "a new point: name the verb that passes it in tests/acceptance/faults.py"


@dataclass(slots=True)
class Subject:
    """The sandbox that things happen to, with its load; a lost one is replaced."""

    fleet: LiveFleet
    sandbox_id: str = ""
    checkpoint_id: str = ""
    number: int = 0
    """How far its load had come when it was looked at last."""
    is_recoverable: bool = False
    losses: int = 0
    """How often its QEMU was killed: a sandbox is recovered only so often an hour."""
    others: list[str] = field(default_factory=list)
    """Sandboxes that a verb made beside it."""


@pytest.fixture(scope="module")
def faults(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Faults]:
    """A fleet on a small disk of its own, whose processes obey orders."""
    with disposable_directory("sandfleet-faults", end=end_on_small_disk) as parent:
        orders = parent / ORDERS
        orders.mkdir(mode=0o700)
        data_dir = small_disk(parent, size_gib=8) / "fleet"
        fleet = start_fleet(data_dir, environment={"SANDFLEET_FAULT_POINTS_DIR": str(orders)})
        yield Faults(fleet, orders)
        fleet.down()


@pytest.fixture(scope="module")
def subject(faults: Faults) -> Iterator[Subject]:
    """One sandbox for all of them, as long as it lives."""
    subject = Subject(faults.fleet)
    yield subject
    with faults.fleet.client() as http:
        http.delete(f"/api/sandboxes/{subject.sandbox_id}")


def chosen_rounds() -> list[tuple[str, str, str]] | None:
    """Return the rounds that were asked for, None if all are."""
    if named := os.environ.get("SANDFLEET_FAULTS"):
        return [(parts[0], parts[1], parts[2]) for parts in (one.split("/") for one in named.split())]
    return None


def _rounds() -> list[tuple[str, str, str]]:
    """Return (verb, point, fault): the process's own death everywhere, and one of the others in turn."""
    if (named := chosen_rounds()) is not None:
        return [one for one in named if one[0] not in BETWEEN_WORKERS]
    rounds: list[tuple[str, str, str]] = []
    turn = 0
    for verb in VERBS:
        for point in [] if verb in BETWEEN_WORKERS else points_of(verb):
            rounds += [(verb, point, "kill"), (verb, point, OTHERS[turn % len(OTHERS)])]
            turn += 1
    return [*rounds, *ALSO]


@pytest.mark.chaos
@pytest.mark.parametrize(
    ("verb", "point", "fault"),
    [pytest.param(*one, id="/".join(one)) for one in _rounds()],
)
def test_at_every_step(faults: Faults, subject: Subject, verb: str, point: str, fault: str) -> None:
    play(faults, subject, verb, point, fault)


def play(faults: Faults, subject: Subject, verb: str, point: str, fault: str) -> None:
    """Prepare, run the verb into the fault, let the fleet recover, and look at everything."""
    fleet = faults.fleet
    with fleet.client(timeout_s=150) as http:
        prepare(http, subject, verb, losses=(verb == "recover") + (fault in ("qemu", "source", "target")))
        before = take_census(fleet)
        machines = machines_of(fleet, subject.sandbox_id)
        order = fault if fault in ("kill", "enospc") else "hold"
        with faults.armed(point, order), ThreadPoolExecutor(1) as pool:
            asked = pool.submit(VERB_CALLS[verb], faults, subject)
            faults.wait_reached(point, unless=asked)
            if order == "hold":
                with faults.done(fault, subject.sandbox_id, before=machines):
                    faults.let_go(point)
                    outcome(asked, patience_s=20)
            outcome(asked, patience_s=150)
        may_go_back = fault in ("qemu", "spoil") or verb in ("restore", "recover") or ends_it(point, fault)
        examine(http, subject, may_go_back=may_go_back, may_be_lost=fault == "spoil")
        clear_away(http, subject, spared={row.split()[0] for row in before.living})
        wait_for_no_leak(before, fleet, timeout_s=LEAK_S, but=subject.sandbox_id)
        wait_until(
            lambda: not leftovers_of_snapshots(fleet),
            timeout_s=LEAK_S,
            what=f"no snapshots of nobody: {leftovers_of_snapshots(fleet)}",
        )


def ends_it(point: str, fault: str) -> bool:
    """Whether the QEMU of one side of a move is all there is of the sandbox: its loss is the sandbox's."""
    if fault == "source":
        return point.startswith(BEFORE_HAND_OVER)
    return fault == "target" and point.startswith(AFTER_ARRIVAL)


@pytest.mark.chaos
def test_the_object_store_holds_no_piece_of_nobody(faults: Faults, subject: Subject) -> None:
    """After everything above; that a sweep is right at all is asked in tests/integration/blobs."""
    wait_durable(subject)
    assert pieces_of_nobody(faults.fleet) == []


def prepare(http: httpx.Client, subject: Subject, verb: str, *, losses: int) -> None:
    """Have the subject in the state that the verb begins with; one that may be lost `losses` times more."""
    if subject.losses + losses > RECOVERIES_MAX:
        assert http.delete(f"/api/sandboxes/{subject.sandbox_id}").status_code == 204
        subject.sandbox_id = ""
    state = status_of(http, subject.sandbox_id) if subject.sandbox_id else "none"
    if state not in ("running", "hibernated"):
        made = http.post("/api/sandboxes", json={"timeout": 0, "memoryMB": 512})
        assert made.status_code == 201, made.text
        subject.sandbox_id = made.json()["sandboxID"]
        subject.checkpoint_id, subject.number, subject.is_recoverable = "", 0, False
        subject.losses = 0
        begin_load(http, subject.sandbox_id)
    subject.losses += losses
    path = f"/api/sandboxes/{subject.sandbox_id}"
    if verb in ("wake", "wake_fetched"):
        if state != "hibernated":
            assert http.post(f"{path}/hibernate").status_code == 200
        wait_durable(subject)
        subject.is_recoverable = True
        if verb == "wake_fetched":
            forget_local_copies(subject)
        return
    if state == "hibernated":
        assert http.post(f"{path}/wake", json={}).status_code == 200
    if verb in ("restore", "recover") and not subject.checkpoint_id:
        made = http.post(f"{path}/checkpoints", json={"name": uuid.uuid4().hex})
        assert made.status_code == 201, made.text
        subject.checkpoint_id = made.json()["id"]
        wait_durable(subject)
        subject.is_recoverable = True


def wait_durable(subject: Subject) -> None:
    """Return when no upload is under way any more."""
    wait_until(
        lambda: not take_census(subject.fleet).open_operations,
        timeout_s=90,
        what="uploads to end",
        every_s=0.3,
    )


def forget_local_copies(subject: Subject) -> None:
    """Take the worker's copies away by starting it anew without them."""
    for directory in (Path(subject.fleet.setting("data_dir")) / "snapshots").iterdir():
        shutil.rmtree(directory)


def status_of(http: httpx.Client, sandbox_id: str) -> str:
    """Return its state, or what the answer was instead."""
    answer = http.get(f"/api/sandboxes/{sandbox_id}")
    return str(answer.json().get("status", answer.status_code))


def examine(http: httpx.Client, subject: Subject, *, may_go_back: bool, may_be_lost: bool) -> None:
    """The subject is settled, in time; and it is right, or it says why it is lost.

    It may be lost where there is nothing to come back from, or where that was spoilt.
    """
    seen: dict[str, Any] = {}

    def is_settled() -> bool:
        seen.clear()
        seen.update(http.get(f"/api/sandboxes/{subject.sandbox_id}").json())
        return seen.get("status") in SETTLED

    wait_until(is_settled, timeout_s=SETTLE_S, what="the sandbox to settle")
    if seen["status"] == "error":
        assert may_go_back, seen
        assert may_be_lost or not subject.is_recoverable, seen
        assert seen["errorMsg"], seen
        return
    if seen["status"] == "stopped":
        return
    found: list[Checked | httpx.Response] = []

    def is_answered() -> bool:
        found[:] = [check_load(http, subject.sandbox_id)]
        return isinstance(found[0], Checked) or found[0].status_code == 410

    wait_until(is_answered, timeout_s=SETTLE_S, what=f"a command to run: {found}", every_s=1)
    (checked,) = found
    if isinstance(checked, httpx.Response):
        assert may_go_back, checked.text
        assert may_be_lost or not subject.is_recoverable, checked.text
        assert "errorMsg" in checked.text or checked.json().get("error"), checked.text
        return
    assert checked.is_right, checked
    if not may_go_back:
        assert checked.number > subject.number, (checked, subject)
    subject.number = checked.number


def clear_away(http: httpx.Client, subject: Subject, *, spared: set[str]) -> None:
    """Delete what the verb made, so that whatever else is there was left behind."""
    for one in listed(http, "/api/sandboxes?limit=100", "sandboxes"):
        if one["sandboxID"] not in spared:
            assert http.delete(f"/api/sandboxes/{one['sandboxID']}").status_code == 204
    path = f"/api/sandboxes/{subject.sandbox_id}/checkpoints"
    for one in listed(http, path, "checkpoints"):
        if one["id"] != subject.checkpoint_id:
            http.delete(f"{path}/{one['id']}")


def listed(http: httpx.Client, path: str, name: str) -> list[dict[str, Any]]:
    """Return what a list says once it can be read: a command runs before the database is back."""
    answers: list[httpx.Response] = []

    def is_answered() -> bool:
        answers[:] = [http.get(path)]
        return answers[0].status_code != 503

    wait_until(is_answered, timeout_s=SETTLE_S, what=f"an answer of {path}")
    assert answers[0].status_code == 200, answers[0].text
    body = answers[0].json()
    found: list[dict[str, Any]] = body if isinstance(body, list) else body[name]
    return found


def outcome(asked: Future[Any], *, patience_s: float) -> None:
    """Wait for the answer; that there is none is no answer either."""
    with suppress(httpx.HTTPError, TimeoutError):
        asked.result(timeout=patience_s)


def _posting(path: str, body: dict[str, Any] | None = None) -> Callable[[Faults, Subject], str]:
    def call(faults: Faults, subject: Subject) -> str:
        where = path.format(id=subject.sandbox_id, checkpoint=subject.checkpoint_id)
        with faults.fleet.client(timeout_s=150) as http:
            return http.post(where, json=body if body is not None else {}).text

    return call


def _checkpoint(faults: Faults, subject: Subject) -> str:
    path = f"/api/sandboxes/{subject.sandbox_id}/checkpoints"
    with faults.fleet.client(timeout_s=150) as http:
        return http.post(path, json={"name": uuid.uuid4().hex}).text


def _delete(faults: Faults, subject: Subject) -> str:
    """Delete another one, which is idle, so that the subject stays."""
    with faults.fleet.client(timeout_s=150) as http:
        made = http.post("/api/sandboxes", json={"timeout": 0, "memoryMB": 512})
        assert made.status_code == 201, made.text
        return http.delete(f"/api/sandboxes/{made.json()['sandboxID']}").text


def _lose(faults: Faults, subject: Subject) -> str:
    """Let its QEMU die, and wait until it was missed."""
    assert faults.kill_qemu(subject.sandbox_id), qemu_processes(faults.fleet)
    deadline = time.monotonic() + 60
    with faults.fleet.client(timeout_s=10) as http:
        while time.monotonic() < deadline:
            with suppress(httpx.HTTPError, KeyError, ValueError):
                if status_of(http, subject.sandbox_id) != "running":
                    return "missed"
            time.sleep(0.1)
    return "not missed"


VERB_CALLS: dict[str, Callable[[Faults, Subject], str]] = {
    "create": _posting("/api/sandboxes", {"timeout": 0, "memoryMB": 512}),
    "delete": _delete,
    "hibernate": _posting("/api/sandboxes/{id}/hibernate"),
    "wake": _posting("/api/sandboxes/{id}/wake"),
    "wake_fetched": _posting("/api/sandboxes/{id}/wake"),
    "checkpoint": _checkpoint,
    "restore": _posting("/api/sandboxes/{id}/checkpoints/{checkpoint}/restore"),
    "fork": _posting("/api/sandboxes/{id}/fork?count=2", {"timeout": 0}),
    "recover": _lose,
    "migrate": _posting("/api/sandboxes/{id}/migrate", {"targetWorker": "*"}),
}
