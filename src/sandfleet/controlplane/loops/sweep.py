"""Removes pieces from the object store that no snapshot needs any more."""

from __future__ import annotations

from sandfleet.controlplane.dependencies import ControlPlane
from sandfleet.model.errors import BlobsUnavailable

YOUNG_S = 86400.0
"""An upload that goes on may be about to need what it has just put there."""


async def tick(plane: ControlPlane) -> str:
    """Sweep what is in no kept snapshot and is old enough."""
    if plane.blobs is None:
        return "there is no object store"
    kept = await plane.stores.snapshots.kept()
    try:
        removed = await plane.blobs.sweep(keep=kept, older_than_s=YOUNG_S)
    except BlobsUnavailable as error:
        return f"the object store is away: {error.message}"
    return (
        f"removed {removed} objects that nothing needs"
        if removed
        else "the object store holds nothing unneeded"
    )
