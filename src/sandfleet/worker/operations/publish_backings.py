"""Publish: have what a sandbox's disks stand on in the object store, for a worker that lacks it."""

from __future__ import annotations

from sandfleet.wire.move_messages import BackingsPublished, PublishBackings
from sandfleet.worker.host import Host


async def publish_backings(host: Host, sandbox_id: str, order: PublishBackings) -> BackingsPublished:
    """Return when the store has them; what is there already is not sent again."""
    host.require_adopted()
    resident = host.residents.serving(sandbox_id, epoch=order.epoch)
    backings = await host.require_mover().backings(resident.glance())
    new_bytes = await host.require_store().put_backings(backings)
    return BackingsPublished(digests=sorted(backings), new_bytes=new_bytes)
