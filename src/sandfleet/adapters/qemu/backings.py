"""The files that disks stand on and snapshots share: known by the digest of their bytes, found by it.

They belong to templates and images of this host, or were fetched for a snapshot that was
taken elsewhere. A digest is computed once and remembered with the file's fingerprint.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from sandfleet.adapters.qemu.manifest import write_atomically
from sandfleet.adapters.qemu.template import DATA_FILE, ROOT_FILE, TemplateManifest
from sandfleet.adapters.sparse_files import fingerprint
from sandfleet.model.errors import SnapshotUnusable


@dataclass(slots=True)
class Backings:
    """All backing files that this host has. `directory` holds those that were fetched."""

    directory: Path
    templates_dir: Path
    _known: dict[str, tuple[str, str]] = field(default_factory=dict)

    def digest(self, path: Path) -> str:
        """Return the SHA-256 of a file, from memory or disk if it is as it was."""
        seen = fingerprint(path)
        known = self._known.get(str(path)) or self._remembered(path)
        if known is not None and known[0] == seen:
            self._known[str(path)] = known
            return known[1]
        with open(path, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        self._known[str(path)] = (seen, digest)
        self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_atomically(self._note(path), f"{seen}\n{digest}".encode(), durable=False)
        return digest

    def find(self, digest: str) -> Path | None:
        """Return a file of this host with these bytes."""
        return next((path for path in self._candidates() if self.digest(path) == digest), None)

    def require(self, digest: str) -> Path:
        """Return a file of this host with these bytes, or say that there is none."""
        found = self.find(digest)
        if found is None:
            raise SnapshotUnusable(
                f"this host has no file with digest {digest[:16]}…, which a disk stands on"
            )
        return found

    def place(self, digest: str) -> Path:
        """Return where a file with these bytes is put when it is fetched."""
        self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        return self.directory / f"{digest}.qcow2"

    def _candidates(self) -> Iterator[Path]:
        known = [Path(name) for name in self._known]
        yield from (path for path in known if path.is_file())
        yield from self.directory.glob("*.qcow2")
        for manifest in self.templates_dir.glob("[0-9a-f]*/manifest.json"):
            frozen = (manifest.parent / ROOT_FILE, manifest.parent / DATA_FILE)
            yield from (path for path in frozen if path.is_file())
            yield from self._images_below(manifest)

    def _images_below(self, manifest: Path) -> Iterator[Path]:
        try:
            described = msgspec.json.decode(manifest.read_bytes(), type=TemplateManifest)
        except (OSError, msgspec.DecodeError):
            return
        yield from (path for path in map(Path, described.backing.values()) if path.is_file())

    def _note(self, path: Path) -> Path:
        return self.directory / f".digest-{hashlib.sha256(str(path).encode()).hexdigest()[:32]}"

    def _remembered(self, path: Path) -> tuple[str, str] | None:
        try:
            seen, digest = self._note(path).read_text().splitlines()
        except (OSError, ValueError):
            return None
        return seen, digest
