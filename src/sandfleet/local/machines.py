"""What VMs the workers of this machine keep, by the manifests that lie beside them."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from sandfleet.local.layout import Layout

_READY = "ready"


class _Manifest(msgspec.Struct):
    """The part of a machine's manifest that is looked at here."""

    state: str
    owner: str | None = None


@dataclass(frozen=True, slots=True)
class MachineCount:
    """VMs of sandboxes, VMs that stand ready for the next ones, and those being made or removed."""

    owned: int = 0
    warm: int = 0
    unfinished: int = 0

    @property
    def total(self) -> int:
        """All of them."""
        return self.owned + self.warm + self.unfinished


def count_machines(layout: Layout, *, worker: str = "*") -> MachineCount:
    """Count the VMs of the fleet in a data directory, or of one of its workers."""
    owned = warm = unfinished = 0
    for folder in layout.data_dir.glob(f"workers/{worker}/machines/*"):
        try:
            manifest = msgspec.json.decode((folder / "manifest.json").read_bytes(), type=_Manifest)
        except (OSError, msgspec.DecodeError):
            unfinished += 1
            continue
        if manifest.state != _READY:
            unfinished += 1
        elif manifest.owner is None:
            warm += 1
        else:
            owned += 1
    return MachineCount(owned, warm, unfinished)
