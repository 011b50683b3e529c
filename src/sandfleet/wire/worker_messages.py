"""Messages between the control plane and a worker.

Routes of a worker (JSON bodies; every call but `/health` and `/metrics` carries
`Authorization: Bearer <fleet token>`, a short-lived EdDSA token of the control
plane whose `aud` is the worker's id):

    GET    /health                          {"status","version","role":"worker"}
    GET    /metrics                         Prometheus text
    GET    /vms                             [VmStatus], everything this host holds
    GET    /vms/{sandbox}                   VmStatus, 404 not_found
    PUT    /vms/{sandbox}                   StartVm -> VmStatus; the same epoch twice is one start
    DELETE /vms/{sandbox}                   StopVm  -> VmStopped; true also for what is not here
    POST   /vms/{sandbox}/hibernate         SaveVm  -> SavedVm; the same snapshot id twice is one save
    POST   /vms/{sandbox}/capture           CaptureVm -> SavedVm; the guest runs on
    POST   /vms/{sandbox}/resize            ResizeVm -> ResizedVm; the same sequence twice is one change
    POST   /vms/{sandbox}/reboot            RestartVm -> VmStatus; the guest ends its programs first
    POST   /vms/{sandbox}/power-cycle       RestartVm -> VmStatus; nothing is asked of the guest
    GET    /snapshots                       [SnapshotState], every local copy and upload of this host
    PUT    /snapshots/{snapshot}            UploadSnapshot -> SnapshotState; begins, or reports
    DELETE /snapshots/{snapshot}            DropSnapshot -> SnapshotDropped, the local copy only
    *      /sandboxes/{sandbox}/...         the data plane, public shapes, header EPOCH_HEADER

A worker answers 409 `moved` to an epoch older than the one it has seen, to a start
under an epoch that was stopped there (a retry needs a higher one), and on the data
plane to every epoch but the one it serves and for what is not there at all: 404
is what a guest says of a file. It answers 409 `stale_term` to a leader's term older
than the newest that it has seen, 410 `gone` for a VM that has ended, and 503
`not_ready` while it still looks through its host.

Routes of the control plane for workers (bearer: the fleet's join token):

    POST   /internal/workers/{worker}/heartbeat   Heartbeat -> HeartbeatAnswer
"""

from __future__ import annotations

import msgspec

from sandfleet.wire.snapshot_manifest import SnapshotManifest

EPOCH_HEADER = "X-Sandfleet-Epoch"
EXEC_ID_HEADER = "X-Sandfleet-Exec-Id"
"""Names the exec that a data-plane call starts, so that a repeated call runs nothing twice."""
REQUEST_ID_HEADER = "X-Request-Id"


class SnapshotSource(msgspec.Struct, frozen=True, kw_only=True):
    """What a VM starts from instead of a template: the local copy if there is one, else the store's.

    With `is_fork` the guest becomes somebody else before anyone may use it; otherwise it is
    the same sandbox again and only its clock and randomness are renewed.
    """

    snapshot_id: str
    is_fork: bool = False
    manifest: SnapshotManifest | None = None
    """What the control plane published: a copy that says otherwise is refused."""


class StartVm(msgspec.Struct, frozen=True, kw_only=True):
    """Order to have the VM of a sandbox running here under `epoch`."""

    epoch: int
    template: str
    memory_mib: int
    cpu_count: int
    disk_mib: int
    network_enabled: bool = True
    envs: dict[str, str] = {}
    term: int = 0
    snapshot: SnapshotSource | None = None
    """Its sizes are the snapshot's; the VM is never started without it.

    On a worker that has the sandbox under an older epoch this is a restore in place: the old
    VM goes on being kept until the new one's agent has answered, and stays if that fails.
    """
    cpu_percent: int | None = None
    """The CPU limit that a sandbox which comes back had; None for all its vCPUs."""


class SaveVm(msgspec.Struct, frozen=True, kw_only=True):
    """Order to save a VM to a local snapshot and to end it.

    With `idle_since_s` as in `StopVm`. A failure leaves the sandbox running and served:
    409 `guest_disk_full`, 504 `agent_unresponsive`, 507 and 500 with the host's reason.
    """

    epoch: int
    snapshot_id: str
    idle_since_s: float | None = None
    term: int = 0


class CaptureVm(msgspec.Struct, frozen=True, kw_only=True):
    """Order to take a snapshot of a VM that runs on."""

    epoch: int
    snapshot_id: str
    term: int = 0


class SavedVm(msgspec.Struct, frozen=True, kw_only=True):
    """A snapshot that is complete on this worker's disk, and not yet anywhere else."""

    snapshot_id: str
    size_bytes: int
    manifest: SnapshotManifest
    pause_ms: float


class ResizeVm(msgspec.Struct, frozen=True, kw_only=True):
    """Order to have a running VM with this memory and this CPU limit (percent of one core).

    409 `oom_floor` when the guest uses more, 503 `no_capacity` when the host has not that
    much; both leave the VM at its old size. 409 `stale_version` to an order with a lower
    `sequence` than one that came before; one that was refused stays refused.
    """

    epoch: int
    sequence: int
    """The version that the row got with the operation: a copy of an older order is known by it."""
    memory_mib: int
    cpu_percent: int
    term: int = 0


class ResizedVm(msgspec.Struct, frozen=True, kw_only=True):
    """The guest has it: its memory is online, its limits are set."""

    memory_mib: int
    cpu_percent: int


class MemoryUse(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Of a guest's own measurements those of its users' memory, in bytes; the rest of them is ignored."""

    mem_usage: int
    mem_limit: int


class RestartVm(msgspec.Struct, frozen=True, kw_only=True):
    """Order to boot the VM's own disks anew under the same epoch; `restart_id` twice is one restart."""

    epoch: int
    restart_id: str
    envs: dict[str, str] = {}
    cpu_percent: int | None = None
    term: int = 0


class UploadSnapshot(msgspec.Struct, frozen=True, kw_only=True):
    """Order to bring a local snapshot to the object store; it survives the worker's restart."""

    term: int = 0


class SnapshotState(msgspec.Struct, frozen=True, kw_only=True):
    """How a snapshot stands here. `state`: local, uploading, durable, failed (tried again when asked)."""

    snapshot_id: str
    state: str
    bytes_done: int = 0
    bytes_total: int = 0
    size_bytes: int = 0
    reason: str | None = None


class DropSnapshot(msgspec.Struct, frozen=True, kw_only=True):
    """Order to remove the local copy of a snapshot; one that is not durable goes too."""

    term: int = 0


class SnapshotDropped(msgspec.Struct, frozen=True, kw_only=True):
    """Positive proof that this host has no copy of it any more."""

    snapshot_id: str
    existed: bool


class StopVm(msgspec.Struct, frozen=True, kw_only=True):
    """Order to destroy a VM.

    With `idle_since_s` the worker refuses (409 `busy`) unless no operation is in
    flight and nothing has happened for at least that many seconds; the check and
    the closing of the gate are one step, so no request slips in between.
    """

    epoch: int
    idle_since_s: float | None = None
    term: int = 0


class VmStopped(msgspec.Struct, frozen=True, kw_only=True):
    """Positive proof that the host holds nothing of the sandbox any more."""

    sandbox_id: str
    existed: bool


class VmStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One VM as its worker sees it. `state`: starting, running, saving, stopping, dead."""

    sandbox_id: str
    epoch: int
    state: str
    memory_mib: int = 0
    cpu_count: int = 1
    disk_mib: int = 0
    memory_used_mib: int = 0
    cpu_used: float | None = None
    """Cores that it kept busy between the last two times it was measured."""
    disk_used_mib: int | None = None
    """What its own disks take up on the host."""
    in_flight: int = 0
    idle_s: float = 0.0
    template: str = ""
    template_version: str = ""
    reason: str | None = None


class Heartbeat(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker says of itself, every few seconds.

    `sequence` rises with each beat of one process (`instance_id`); `vms` is the
    complete list of what the host holds, or None when it could not be read:
    unknown is not empty.
    """

    worker_id: str
    instance_id: str
    sequence: int
    machine_id: str
    region: str
    http_url: str
    worker_version: str
    accelerator: str
    cpu_model: str
    templates: dict[str, str]
    total_memory_mib: int
    total_cpu: int
    total_disk_mib: int
    memory_used_mib: int
    cpu_percent: float
    disk_used_mib: int
    host_memory_mib: int = 0
    """What the host itself has, whatever is promised of it: `…_used_…` and `cpu_percent` are of that."""
    host_cpus: int = 0
    host_disk_mib: int = 0
    ends_in_s: float | None = None
    """In how many seconds whoever owns the host will take it away, if they have said so."""
    ends_because: str = ""
    warm: int = 0
    exec_sessions: int = 0
    """Commands, sessions and terminals that run in all VMs, as they were last counted."""
    stopping: bool = False
    vms: list[VmStatus] | None = None


class HeartbeatAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """What the control plane tells the worker back.

    `public_keys` is the JWKS by which the worker verifies fleet tokens and
    `quarantined` names VMs that no row owns: one named by two answers in a row is stopped.
    """

    term: int
    public_keys: dict[str, object]
    cordoned: bool = False
    quarantined: list[str] = []
    heartbeat_interval_s: float = 2.0
    gone: bool = False
    """The worker was taken off the fleet: it gets nothing any more, and what is `over` it must end."""
    over: dict[str, int] = {}
    """For sandboxes of a worker that is gone: VMs under this epoch, or an older one, are nobody's."""
