"""`kill -9` of each process of the fleet in the middle of creates and deletes.

Whatever dies and whenever: what was acknowledged is there, what was not is there or cleanly not,
nothing stays in a middle state, nothing leaks, and a sandbox that was not asked about runs on.
"""

from __future__ import annotations

import random
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import httpx
import pytest
from tests.acceptance.census import take_census, wait_for_no_leak
from tests.acceptance.live_fleet import LiveFleet, wait_until

pytestmark = [pytest.mark.timeout(600)]

ROLES = ("server", "worker", "postgres", "valkey")
MOMENTS_S = (0.0, 0.02, 0.08)
"""After the request was sent: about admission, placement and start; `make chaos` tries many more."""


@dataclass(slots=True)
class Attempt:
    """One create and one delete that a kill interrupts."""

    key: str = field(default_factory=lambda: uuid.uuid4().hex)
    victim: str = ""
    created: httpx.Response | None = None


@pytest.fixture(scope="module")
def bystander(fleet: LiveFleet) -> Iterator[str]:
    """A sandbox that counts seconds while everything around it dies."""
    before = take_census(fleet)
    with fleet.client() as http:
        identity = _create(http)
        counting = "(while sleep 1; do echo tick >> /workspace/ticks; done) >/dev/null 2>&1 &"
        _run(http, identity, counting)
        yield identity
        fleet.wait_healthy()
        assert http.delete(f"/api/sandboxes/{identity}").status_code == 204
    wait_for_no_leak(before, fleet, timeout_s=90)


@pytest.mark.parametrize("role", ROLES)
def test_a_kill_in_the_middle_of_create_and_delete(fleet: LiveFleet, bystander: str, role: str) -> None:
    before = take_census(fleet)
    ticks = _ticks(fleet, bystander)
    attempts = [_interrupt(fleet, role, moment) for moment in MOMENTS_S]
    _check(fleet, attempts)
    wait_until(
        lambda: _ticks(fleet, bystander) > ticks, timeout_s=90, what="the bystander's process to go on"
    )
    wait_for_no_leak(before, fleet, timeout_s=90)


@pytest.mark.chaos
@pytest.mark.timeout(1800)
def test_many_kills_at_random_moments(fleet: LiveFleet, bystander: str) -> None:
    seed = random.SystemRandom().randrange(10**6)
    dice = random.Random(seed)
    for number in range(60):
        role, moment = dice.choice(ROLES), dice.uniform(0.0, 0.8)
        before = take_census(fleet)
        attempts = [_interrupt(fleet, role, moment)]
        _check(fleet, attempts)
        wait_for_no_leak(before, fleet, timeout_s=90)
        assert _ticks(fleet, bystander) > 0, f"seed {seed}, round {number}, {role} after {moment:.3f} s"


def test_an_exec_survives_the_death_of_the_worker(fleet: LiveFleet, bystander: str) -> None:
    with fleet.client(timeout_s=120) as http, ThreadPoolExecutor(1) as pool:
        counting = "for n in $(seq 8); do echo $n; sleep 1; done"
        running = pool.submit(_run, http, bystander, counting)
        time.sleep(3)
        fleet.kill_9("worker")
        answer = running.result(timeout=100)
    assert answer["exitCode"] == 0, answer
    assert answer["stdout"] == "".join(f"{n}\n" for n in range(1, 9)), "output was lost or doubled"


def _interrupt(fleet: LiveFleet, role: str, moment_s: float) -> Attempt:
    """Send a create and a delete, kill `role` a moment later, and wait until the fleet serves again."""
    attempt = Attempt()
    with fleet.client() as http:
        attempt.victim = _create(http)
    with ThreadPoolExecutor(2) as pool:
        create = pool.submit(_try_create, fleet, attempt.key)
        delete = pool.submit(_try_delete, fleet, attempt.victim)
        time.sleep(moment_s)
        fleet.kill_9(role)
        attempt.created = _outcome(create)
        _outcome(delete)
    fleet.wait_healthy(timeout_s=120)
    return attempt


def _check(fleet: LiveFleet, attempts: list[Attempt]) -> None:
    """Repeat what was interrupted, as a client would, and look at the records."""
    with fleet.client() as http:
        for attempt in attempts:
            again = _until_definite(http, attempt.key)
            assert again.status_code == 201, again.text
            identity = again.json()["sandboxID"]
            if attempt.created is not None and attempt.created.status_code == 201:
                assert attempt.created.json()["sandboxID"] == identity, "the key made a second sandbox"
            assert _run(http, identity, "echo alive")["stdout"] == "alive\n"
            assert http.delete(f"/api/sandboxes/{attempt.victim}").status_code == 204
            assert http.get(f"/api/sandboxes/{attempt.victim}").json()["status"] == "stopped"
            assert http.delete(f"/api/sandboxes/{identity}").status_code == 204
            assert http.get(f"/api/sandboxes/{identity}").json()["status"] == "stopped"


def _until_definite(http: httpx.Client, key: str) -> httpx.Response:
    """Repeat the create under its key until the answer is about the sandbox and not about the fleet."""
    deadline = time.monotonic() + 120
    while True:
        answer = http.post("/api/sandboxes", json={"timeout": 600}, headers={"Idempotency-Key": key})
        if answer.status_code < 500:
            return answer
        assert time.monotonic() < deadline, answer.text
        time.sleep(0.5)


def _try_create(fleet: LiveFleet, key: str) -> httpx.Response:
    with fleet.client() as http:
        return http.post("/api/sandboxes", json={"timeout": 600}, headers={"Idempotency-Key": key})


def _try_delete(fleet: LiveFleet, identity: str) -> httpx.Response:
    with fleet.client() as http:
        return http.delete(f"/api/sandboxes/{identity}")


def _outcome(request: Future[httpx.Response]) -> httpx.Response | None:
    """Return the answer, or None when the connection died with the server."""
    try:
        return request.result(timeout=90)
    except httpx.HTTPError:
        return None


def _create(http: httpx.Client) -> str:
    made = http.post("/api/sandboxes", json={"timeout": 600})
    assert made.status_code == 201, made.text
    return str(made.json()["sandboxID"])


def _run(http: httpx.Client, identity: str, command: str) -> dict[str, object]:
    answer = http.post(f"/api/sandboxes/{identity}/exec/run", json={"cmd": command})
    assert answer.status_code == 200, answer.text
    body: dict[str, object] = answer.json()
    return body


def _ticks(fleet: LiveFleet, identity: str) -> int:
    with fleet.client() as http:
        counted = _run(http, identity, "cat /workspace/ticks 2>/dev/null | wc -l")
    assert counted["exitCode"] == 0, counted
    return int(str(counted["stdout"]))
