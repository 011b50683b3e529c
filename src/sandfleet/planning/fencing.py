"""Which VMs of a worker that is gone are over, should it speak again after all.

Its sandboxes were given to others on somebody's word. The proof is the epoch alone: it rises
with each change of owner and never falls, so whoever holds an older one owns nothing any more,
and of one epoch there is one owner. What has no row, or is still this worker's, is not judged.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sandfleet.model.ids import SandboxId, WorkerId


@dataclass(frozen=True, slots=True)
class Ownership:
    """Who owns a sandbox, and since which change of owner."""

    epoch: int
    worker_id: WorkerId | None
    is_terminal: bool


def epochs_over(
    owners: Mapping[SandboxId, Ownership], *, gone: WorkerId, coming: Mapping[SandboxId, int]
) -> Mapping[SandboxId, int]:
    """Return for each sandbox the newest epoch under which a VM on the worker that is `gone` is over.

    `coming`: the epochs of those that were on their way there. No move to such a worker is committed any
    more, so what does not own its sandbox already never will.
    """
    return {name: _over(owner, gone, coming.get(name, 0)) for name, owner in owners.items()}


def _over(owner: Ownership, gone: WorkerId, coming: int) -> int:
    is_its_own = owner.worker_id == gone and not owner.is_terminal
    return owner.epoch - 1 if is_its_own else max(owner.epoch, coming)
