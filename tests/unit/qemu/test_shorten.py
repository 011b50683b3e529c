"""Shortening a disk that is broken off: no job is left, which would refuse the disk to the next save."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from qemu.qmp import EventListener
from tests.unit.qemu.builders import a_manifest

from sandfleet.adapters.qemu import chains
from sandfleet.adapters.qemu.host import Host
from sandfleet.adapters.qemu.machine import QemuMachine
from sandfleet.adapters.qemu.manifest import DiskChain

LONG = DiskChain(layers=["b", "a"], nodes=["nb", "na"], base_node="n0", backings=["/t/root.qcow2"])


class StreamingQmp:
    """A QEMU that streams until it is told to end."""

    def __init__(self) -> None:
        self.events = EventListener()
        self.has_begun = asyncio.Event()
        self.ended: list[str] = []

    @contextmanager
    def listen(self, *_: str) -> Iterator[EventListener]:
        yield self.events

    async def execute(self, command: str, arguments: dict[str, Any]) -> None:
        if command == "block-stream":
            self.has_begun.set()
        if command == "block-job-cancel":
            self.ended.append(arguments["device"])
            event = {"event": "BLOCK_JOB_CANCELLED", "data": {"device": arguments["device"]}}
            await self.events.put(cast("Any", event))


class LongMachine:
    """A machine whose disks have two layers each."""

    def __init__(self) -> None:
        self.monitor = StreamingQmp()
        self.manifest = a_manifest(root=LONG, data=LONG)


async def test_its_job_ends_with_whoever_waits_for_it(tmp_path: Path) -> None:
    machine = LongMachine()
    shortening = chains.shorten(cast("Host", tmp_path), cast("QemuMachine", machine), layers_max=1)
    task = asyncio.ensure_future(shortening)
    await machine.monitor.has_begun.wait()
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    assert len(machine.monitor.ended) == 1
    assert machine.manifest.root == LONG
