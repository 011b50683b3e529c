"""Every fault at every step of a move between two workers: one copy is left, with all its data.

`make chaos` runs the matrix, some hundred moves of one sandbox that writes all the time. With
SANDFLEET_FAULTS="migrate/send.drained/source …" only those are run.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.acceptance.faults import BETWEEN_WORKERS, ORDERS, OUTSIDE_MOVES, Faults, points_of
from tests.acceptance.live_fleet import start_fleet, wait_until
from tests.acceptance.test_faults import Subject, chosen_rounds, play

from sandfleet.testing.disposable_fleets import disposable_directory
from sandfleet_sdk import Client

pytestmark = [pytest.mark.timeout(300), pytest.mark.chaos]
FAULTS = ("kill", *OUTSIDE_MOVES)


@pytest.fixture(scope="module")
def faults() -> Iterator[Faults]:
    """A fleet of two workers, whose processes obey orders."""
    with disposable_directory("sandfleet-move-faults") as data_dir:
        orders = data_dir / ORDERS
        orders.mkdir(mode=0o700)
        environment = {"SANDFLEET_FAULT_POINTS_DIR": str(orders)}
        fleet = start_fleet(data_dir, "--workers", "2", environment=environment)
        yield Faults(fleet, orders)
        fleet.down()


@pytest.fixture(scope="module")
def subject(faults: Faults) -> Iterator[Subject]:
    """One sandbox for all of them, as long as it lives."""
    subject = Subject(faults.fleet)
    yield subject
    with faults.fleet.client() as http:
        http.delete(f"/api/sandboxes/{subject.sandbox_id}")


def _rounds() -> list[tuple[str, str, str]]:
    if (named := chosen_rounds()) is not None:
        return [one for one in named if one[0] in BETWEEN_WORKERS]
    return [(verb, point, fault) for verb in BETWEEN_WORKERS for point in points_of(verb) for fault in FAULTS]


@pytest.mark.parametrize(
    ("verb", "point", "fault"), [pytest.param(*one, id="/".join(one)) for one in _rounds()]
)
def test_at_every_step_of_a_move(faults: Faults, subject: Subject, verb: str, point: str, fault: str) -> None:
    """`play` finds a second machine of the sandbox as well as wrong bytes."""
    with Client(faults.fleet.url, faults.fleet.api_key) as client:
        wait_until(
            lambda: [worker.state for worker in client.fleet.workers()] == ["ready", "ready"],
            timeout_s=120,
            what="both workers to be ready",
        )
    play(faults, subject, verb, point, fault)
