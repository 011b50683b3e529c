"""The wanted version as the one line of a file (port: `ports.version_source.VersionSource`)."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path

from sandfleet.model.errors import PoolUnreachable


@dataclass(frozen=True, slots=True)
class VersionFile:
    """Whoever writes it replaces it as a whole."""

    path: Path

    async def read(self) -> str | None:
        """Return the line; None without a file, or without anything in it."""
        try:
            text = await asyncio.to_thread(self.path.read_text, encoding="utf-8")
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise PoolUnreachable(f"{self.path} cannot be read: {error}") from error
        return text.strip() or None
