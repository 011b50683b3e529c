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
    assert epochs_over({ID: owner}, gone=HERE) == {ID: over}


def test_what_has_no_row_is_not_judged() -> None:
    assert epochs_over({}, gone=HERE) == {}
