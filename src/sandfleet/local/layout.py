"""Where the files of a one-machine fleet lie, all below its data directory."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

DATA_DIR_VARIABLE = "SANDFLEET_DATA_DIR"
MACHINE_DATA_DIR = Path("/var/lib/sandfleet")


def default_data_dir() -> Path:
    """Return where the fleet lives unless told otherwise: /var/lib for root, XDG for others.

    Others without a fleet of their own are shown the machine's, though they may not read its key.
    """
    if named := os.environ.get(DATA_DIR_VARIABLE):
        return Path(named)
    if os.geteuid() == 0:
        return MACHINE_DATA_DIR
    base = os.environ.get("XDG_DATA_HOME") or str(Path.home() / ".local" / "share")
    own = Path(base) / "sandfleet"
    return own if own.exists() or not (MACHINE_DATA_DIR / "state.json").exists() else MACHINE_DATA_DIR


@dataclass(frozen=True, slots=True)
class Layout:
    """Paths of one fleet."""

    data_dir: Path

    @property
    def lock(self) -> Path:
        """Held by the supervisor for as long as it lives."""
        return self.data_dir / "supervisor.lock"

    @property
    def state(self) -> Path:
        """What runs now, written by the supervisor."""
        return self.data_dir / "state.json"

    @property
    def configuration(self) -> Path:
        """What was chosen once and is kept: ports, workers, memory."""
        return self.data_dir / "fleet.json"

    @property
    def secrets(self) -> Path:
        """What was generated once: keys and tokens."""
        return self.data_dir / "secrets.json"

    @property
    def server_choices(self) -> Path:
        """Settings of the servers that the owner of this machine has added, if there are any."""
        return self.data_dir / "server.toml"

    @property
    def postgres(self) -> Path:
        """The database's directory."""
        return self.data_dir / "postgres"

    @property
    def snapshots(self) -> Path:
        """The object store: hibernated sandboxes and checkpoints."""
        return self.data_dir / "snapshots"

    @property
    def valkey(self) -> Path:
        """Valkey's directory."""
        return self.data_dir / "valkey"

    @property
    def machines(self) -> Path:
        """What the fleet asks of this machine as a machine pool, and what became of it."""
        return self.data_dir / "machines"

    @property
    def balancer(self) -> Path:
        """The load balancer's configuration and error bodies."""
        return self.data_dir / "balancer"

    @property
    def settings_dir(self) -> Path:
        """Where the settings files lie."""
        return self.data_dir / "settings"

    def settings(self, service: str) -> Path:
        """Return the settings file of a server or worker."""
        return self.settings_dir / f"{service}.toml"

    def worker_data(self, service: str) -> Path:
        """Return where a worker keeps its sandboxes."""
        return self.data_dir / "workers" / service

    def log(self, service: str) -> Path:
        """Return a service's log."""
        return self.data_dir / "logs" / f"{service}.log"

    def make(self) -> None:
        """Make the directories. The stores' own users must be able to enter the data directory."""
        self.data_dir.mkdir(parents=True, exist_ok=True)
        self.data_dir.chmod(0o711)
        for name in ("settings", "logs"):
            (self.data_dir / name).mkdir(exist_ok=True)
            (self.data_dir / name).chmod(0o700)
