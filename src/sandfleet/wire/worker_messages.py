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

EPOCH_HEADER = "X-Sandfleet-Epoch"
EXEC_ID_HEADER = "X-Sandfleet-Exec-Id"
"""Names the exec that a data-plane call starts, so that a repeated call runs nothing twice."""
REQUEST_ID_HEADER = "X-Request-Id"


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
    """One VM as its worker sees it. `state`: starting, running, stopping, dead."""

    sandbox_id: str
    epoch: int
    state: str
    memory_mib: int = 0
    cpu_count: int = 1
    disk_mib: int = 0
    memory_used_mib: int = 0
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
    warm: int = 0
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
