"""A store of this machine that this process runs by itself, for tests and tools: started, stopped, killed.

The supervisor of `up` runs the same files its own way.
"""

from __future__ import annotations

import secrets
from pathlib import Path
from types import TracebackType
from typing import Generic, Protocol, TypeVar

from sandfleet.local import ports
from sandfleet.local.accounts import unreachable_ancestor
from sandfleet.local.service_process import PortTaken, ServiceFailed, ServiceProcess

START_ATTEMPTS = 5


class StoreFiles(Protocol):
    """What one store keeps in its directory, and how its server begins."""

    def url(self, port: int) -> str:
        """Return its URL, password included."""
        ...

    def begin(self, port: int) -> ServiceProcess:
        """Start the server on a port and return when it answers; ServiceFailed."""
        ...


Files = TypeVar("Files", bound=StoreFiles)


class RunningStore(Generic[Files]):
    """A store that this process started; a context manager that stops it."""

    def __init__(self, files: Files, process: ServiceProcess, *, port: int) -> None:
        self.files = files
        self.port = port
        self.url = files.url(port)
        self._process = process

    @property
    def pid(self) -> int:
        """Return the server's process id."""
        return self._process.pid

    def stop(self) -> None:
        """End it cleanly."""
        self._process.stop()

    def kill(self) -> None:
        """End it as kill -9 would; `restart` brings it back."""
        self._process.kill()

    def restart(self) -> None:
        """Start it again on the same port after `stop`, `kill` or a crash."""
        self._process = _begin(self.files, self.port)

    def __enter__(self) -> RunningStore[Files]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def start_store(files: Files, *, port: int = 0) -> RunningStore[Files]:
    """Start it; port 0 chooses a free one."""
    for _ in range(START_ATTEMPTS):
        chosen = port or ports.free_port()
        try:
            return RunningStore(files, _begin(files, chosen), port=chosen)
        except PortTaken:
            if port:
                raise
    raise PortTaken(f"no free port was found in {START_ATTEMPTS} attempts")


def make_directory(data_dir: Path, *, password_file: Path, entered: Path, program: str) -> None:
    """Make a store's directory and its password; `entered` must be within reach of the server's own user."""
    data_dir.mkdir(parents=True, exist_ok=True)
    data_dir.chmod(0o711)
    blocked = unreachable_ancestor(entered)
    if blocked is not None:
        raise ServiceFailed(
            f"{blocked} cannot be entered by other users, and {program} does not run as root: "
            f"use another data directory, or chmod o+x {blocked}"
        )
    if not password_file.exists():
        password_file.touch(mode=0o600)
        password_file.write_text(secrets.token_hex(24))


def _begin(files: StoreFiles, port: int) -> ServiceProcess:
    if not ports.is_free(port):
        raise PortTaken(f"port {port} on {ports.LOOPBACK} is taken by another process")
    try:
        return files.begin(port)
    except ServiceFailed as error:
        if "Address already in use" in str(error):
            raise PortTaken(f"port {port} on {ports.LOOPBACK} was taken meanwhile") from error
        raise
