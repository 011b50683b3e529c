"""The state file: what the supervisor started, for `status`, `down` and the next supervisor."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum

import msgspec

from sandfleet.local.atomic_file import write_atomically
from sandfleet.local.layout import Layout
from sandfleet.local.processes import ProcessIdentity, is_alive


class ServiceKind(StrEnum):
    """What a service is."""

    POSTGRES = "postgres"
    VALKEY = "valkey"
    SERVER = "server"
    BALANCER = "balancer"
    WORKER = "worker"


class ServiceCondition(StrEnum):
    """How a service does. `failed`: it is not tried again until the next `up`."""

    WAITING = "waiting"
    STARTING = "starting"
    RUNNING = "running"
    RESTARTING = "restarting"
    STOPPED = "stopped"
    FAILED = "failed"


class ServiceState(msgspec.Struct, frozen=True, rename="camel"):
    """One service. `digest` is that of its command and settings: an equal one may be adopted."""

    name: str
    kind: ServiceKind
    condition: ServiceCondition
    port: int
    process: ProcessIdentity | None = None
    digest: str = ""
    restarts: int = 0
    failures: int = 0
    """Ends in a row without having been ready in between."""
    last_error: str | None = None
    since: datetime | None = None
    is_launched: bool = False
    """Whether it is a worker that the fleet has begun by itself, and will end."""

    @property
    def is_alive(self) -> bool:
        """Whether exactly the recorded process runs."""
        return self.process is not None and is_alive(self.process)


class FleetState(msgspec.Struct, frozen=True, rename="camel"):
    """The whole fleet of one data directory."""

    url: str
    supervisor: ProcessIdentity
    services: tuple[ServiceState, ...] = ()
    choices: str = ""
    """Digest of the choices that its supervisor began with."""

    @property
    def is_supervised(self) -> bool:
        """Whether the supervisor that wrote this still lives."""
        return is_alive(self.supervisor)

    def of_kind(self, kind: ServiceKind) -> tuple[ServiceState, ...]:
        """Return the services of one kind."""
        return tuple(service for service in self.services if service.kind is kind)

    def service(self, name: str) -> ServiceState | None:
        """Return a service by name."""
        return next((service for service in self.services if service.name == name), None)

    @property
    def ports_in_use(self) -> frozenset[int]:
        """Return where those of its services listen that run."""
        return frozenset(service.port for service in self.services if service.is_alive)


def read_state(layout: Layout) -> FleetState | None:
    """Return the recorded state, None if there is none (or it is unreadable: it can be made again)."""
    try:
        return msgspec.json.decode(layout.state.read_bytes(), type=FleetState)
    except (FileNotFoundError, msgspec.DecodeError, msgspec.ValidationError):
        return None


def write_state(layout: Layout, state: FleetState) -> None:
    """Record the state."""
    write_atomically(layout.state, msgspec.json.encode(state), mode=0o644)
