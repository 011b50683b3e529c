"""A few rounds of the fault matrix on the shared fleet, one of each verb; `make chaos` runs all."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.acceptance.faults import ORDERS, Faults
from tests.acceptance.live_fleet import LiveFleet
from tests.acceptance.test_faults import Subject, play

pytestmark = [pytest.mark.timeout(900)]

ROUNDS = (
    ("create", "create.start.written", "kill"),
    ("checkpoint", "capture.written", "kill"),
    ("restore", "succeed.loaded", "kill"),
    ("fork", "fork.capture.written", "valkey"),
    ("hibernate", "save.written", "kill"),
    ("wake", "load.answered", "qemu"),
)


@pytest.fixture(scope="module")
def faults(fleet: LiveFleet) -> Faults:
    """The means to do harm to the fleet that all share."""
    return Faults(fleet, fleet.data_dir / ORDERS)


@pytest.fixture(scope="module")
def subject(fleet: LiveFleet) -> Iterator[Subject]:
    """One sandbox for all of them."""
    subject = Subject(fleet)
    yield subject
    with fleet.client() as http:
        http.delete(f"/api/sandboxes/{subject.sandbox_id}")


@pytest.mark.parametrize(("verb", "point", "fault"), [pytest.param(*one, id="/".join(one)) for one in ROUNDS])
def test_at_a_chosen_step(faults: Faults, subject: Subject, verb: str, point: str, fault: str) -> None:
    play(faults, subject, verb, point, fault)
