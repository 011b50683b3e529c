"""The wanted version as the one line of a file (port: `ports.version_source.VersionSource`)."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from sandfleet.adapters.own_threads import OwnThreads
from sandfleet.model.errors import PoolUnreachable


@dataclass(frozen=True, slots=True)
class VersionFile:
    """Whoever writes it replaces it as a whole."""

    path: Path
    _threads: OwnThreads = field(default_factory=lambda: OwnThreads("version-file", at_once=1), compare=False)

    async def read(self) -> str | None:
        """Return the line; None without a file, or without anything in it."""
        try:
            text = await self._threads.run(lambda: self.path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise PoolUnreachable(f"{self.path} cannot be read: {error}") from error
        return text.strip() or None
