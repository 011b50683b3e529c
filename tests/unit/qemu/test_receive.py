"""By how many connections a memory comes: several only where its guest stands still for all of it."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from tests.unit.qemu.builders import a_snapshot_manifest

from sandfleet.adapters.qemu.migration import CHANNELS
from sandfleet.adapters.qemu.receive import _channels
from sandfleet.ports.moves import Arrival
from sandfleet.wire.move_manifest import MovedDisk, MoveManifest

DISK = MovedDisk(size_bytes=1, backings=[])
USUAL: dict[str, Any] = {
    "memory_mib": 1024,
    "accelerator": "tcg",
    "may_post_copy": False,
    "channels_max": CHANNELS,
}


def an_arrival(*, memory_mib: int, accelerator: str, may_post_copy: bool, channels_max: int) -> Arrival:
    shape = msgspec.structs.replace(a_snapshot_manifest().shape, accelerator=accelerator)
    manifest = MoveManifest(
        owner="sb-1",
        epoch=1,
        template="base",
        template_version="v",
        image_digest="i",
        memory_mib=memory_mib,
        cpu_count=1,
        disk_mib=20480,
        network_enabled=True,
        shape=shape,
        root=DISK,
        data=DISK,
        channels_max=channels_max,
    )
    return Arrival("mv-1", manifest, owner="sb-1", epoch=2, host="::1", may_post_copy=may_post_copy)


@pytest.mark.parametrize(
    ("changed", "channels"),
    [
        ({}, CHANNELS),
        ({"memory_mib": 512}, 0),
        ({"accelerator": "kvm"}, 0),
        ({"may_post_copy": True}, 0),
        ({"channels_max": 0}, 0),
    ],
)
def test_a_guest_that_stands_still_for_its_copy_comes_by_several(
    changed: dict[str, Any], channels: int
) -> None:
    assert _channels(an_arrival(**{**USUAL, **changed})) == channels
