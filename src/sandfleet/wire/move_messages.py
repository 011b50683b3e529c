"""Messages between the control plane and the two workers of a live migration.

Routes (bodies and credentials as in `worker_messages`):

    POST   /vms/{sandbox}/describe        DescribeVm -> MoveManifest, what the target must know
    POST   /vms/{sandbox}/backings        PublishBackings -> BackingsPublished, what its disks stand on
    PUT    /vms/{sandbox}/move            SendMove -> MoveState; begins or joins, waits for what is decisive
    GET    /vms/{sandbox}/move            MoveState of the newest move
    POST   /vms/{sandbox}/move/stay       EndMove -> VmStatus; the sandbox goes on at the source
    POST   /vms/{sandbox}/move/release    EndMove -> VmStopped; nothing of it is left at the source
    PUT    /moves/{move}                  ReceiveMove -> Landing; the target makes the place
    POST   /moves/{move}/landed           AwaitLanding -> MoveState; the target could run it
    POST   /moves/{move}/commit           CommitMove -> VmStatus; the target runs it
    DELETE /moves/{move}                  AbandonMove -> MoveAbandoned; nothing is left at the target

Order: describe, receive, send until `ready`, landed, then the row changes owner and epoch, then commit
and release. Before the row has changed: stay, abandon. `commit` is only ever sent after it.

Only the source's own `ready` says that it cannot run by itself any more. Whoever has no such word from it
commits only when its QEMU, or its host, is known to be dead. `undecided` says that the source stands
still and does not know yet: asked again, it looks again.
"""

from __future__ import annotations

import msgspec

from sandfleet.wire.move_manifest import Landing, MoveManifest

DISKS, MEMORY, SWITCHING = "disks", "memory", "switching"
READY, UNDECIDED, FAILED, STAYED = "ready", "undecided", "failed", "stayed"
ARRIVING, LANDED, AT_HOME = "arriving", "landed", "at-home"
DECISIVE = frozenset({READY, UNDECIDED, FAILED, STAYED})
WAIT_S_MAX = 60.0


class MoveLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What is allowed of one move (see `model.move.MovePolicy`); 0 MiB/s is no limit."""

    downtime_ms_max: int = 300
    silent_s_max: float = 30.0
    rounds_max: int = 24
    may_throttle: bool = True
    may_post_copy: bool = False
    mib_per_s_max: int = 0


class DescribeVm(msgspec.Struct, frozen=True, kw_only=True):
    """Order to say what the target of a move must know."""

    epoch: int
    term: int = 0


class PublishBackings(msgspec.Struct, frozen=True, kw_only=True):
    """Order to have what the disks stand on in the object store, for a target that lacks it."""

    epoch: int
    term: int = 0


class BackingsPublished(msgspec.Struct, frozen=True, kw_only=True):
    """The object store has them; `new_bytes` were brought now."""

    digests: list[str]
    new_bytes: int


class SendMove(msgspec.Struct, frozen=True, kw_only=True):
    """Order to send a VM. Answers at once when `wait_s` is 0, else when something decisive is known."""

    epoch: int
    move_id: str
    target_worker: str
    landing: Landing
    limits: MoveLimits = MoveLimits()
    wait_s: float = 0.0
    term: int = 0


class MoveState(msgspec.Struct, frozen=True, kw_only=True):
    """How a move stands at one of its ends.

    Source: disks, memory, switching, ready, undecided, failed (it runs on), stayed.
    Target: arriving, landed, at-home.
    """

    move_id: str
    sandbox_id: str
    step: str
    way: str = ""
    round: int = 0
    elapsed_s: float = 0.0
    transferred_bytes: int = 0
    remaining_bytes: int = 0
    dirty_bytes_per_s: int = 0
    bandwidth_bytes_per_s: int = 0
    downtime_ms_expected: float = 0.0
    throttle_percent: int = 0
    said: str = ""
    """Why it goes as it goes, as a sentence."""
    stood_still_at_s: float = 0.0
    """When the guest began to stand still, by the source's wall clock; 0 before."""


class EndMove(msgspec.Struct, frozen=True, kw_only=True):
    """Order at the source, once it is decided: stay, or release.

    `under` is the epoch from which it stays, if it was another's in between.
    """

    epoch: int
    move_id: str
    term: int = 0
    under: int = 0


class ReceiveMove(msgspec.Struct, frozen=True, kw_only=True):
    """Order to make the place for a VM, which will be served under `epoch`."""

    sandbox_id: str
    source_worker: str
    epoch: int
    manifest: MoveManifest
    may_post_copy: bool = False
    """Whether memory may follow its guest, if it cannot go before it."""
    term: int = 0


class AwaitLanding(msgspec.Struct, frozen=True, kw_only=True):
    """Order to answer when the VM could run here."""

    term: int = 0


class CommitMove(msgspec.Struct, frozen=True, kw_only=True):
    """Order to run what has landed: the sandbox's row says that it is here, under `epoch`."""

    sandbox_id: str
    epoch: int
    envs: dict[str, str] = {}
    term: int = 0


class AbandonMove(msgspec.Struct, frozen=True, kw_only=True):
    """Order to remove what was made for a move that does not count."""

    term: int = 0


class MoveAbandoned(msgspec.Struct, frozen=True, kw_only=True):
    """Positive proof that nothing of the move is left here, and that it can never be received again."""

    move_id: str
    existed: bool
