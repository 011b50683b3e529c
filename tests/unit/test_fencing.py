"""What a worker that is gone is told of the VMs that it still runs."""

from __future__ import annotations

import pytest

from sandfleet.model.ids import SandboxId, WorkerId
from sandfleet.planning.fencing import Ownership, epochs_over

ID, HERE, ELSEWHERE = SandboxId("sb-one"), WorkerId("wk-gone"), WorkerId("wk-other")


@pytest.mark.parametrize(
    ("owner", "over"),
    [
        (Ownership(3, HERE, is_terminal=False), 2),  # still its own: what was before is not
        (Ownership(4, ELSEWHERE, is_terminal=False), 4),
        (Ownership(4, None, is_terminal=False), 4),  # on its way to somebody else
        (Ownership(5, HERE, is_terminal=True), 5),
    ],
)
def test_an_epoch_is_over_when_it_is_older_or_has_another_owner(owner: Ownership, over: int) -> None:
    assert epochs_over({ID: owner}, gone=HERE, coming={}) == {ID: over}


def test_what_has_no_row_is_not_judged() -> None:
    assert epochs_over({}, gone=HERE, coming={}) == {}


def test_what_was_coming_to_a_worker_that_is_gone_never_comes() -> None:
    """Its epoch is the one after its owner's; where the row says so it has come, and is that worker's own."""
    elsewhere = Ownership(epoch=3, worker_id=WorkerId("wk-there"), is_terminal=False)
    assert epochs_over({ID: elsewhere}, gone=HERE, coming={ID: 4}) == {ID: 4}
    come = Ownership(epoch=4, worker_id=HERE, is_terminal=False)
    assert epochs_over({ID: come}, gone=HERE, coming={ID: 4}) == {ID: 3}
