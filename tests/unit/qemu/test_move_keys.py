"""The key of a move: in a file of QEMU's user while it is needed, in no argument, with a cheap cipher."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, cast

import pytest

from sandfleet.adapters.qemu import move_keys
from sandfleet.adapters.qemu.move_keys import RECEIVING, SENDING
from sandfleet.adapters.qemu.qmp import Qmp


class _Monitor:
    """A QEMU that is given a directory, and keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, dict[str, Any]]] = []
        self.key_file = ""

    async def execute(self, command: str, arguments: dict[str, Any]) -> None:
        self.told.append((command, arguments))

    async def give_directory(self, fd: int, *, opaque: str) -> str:
        self.key_file = Path(f"/proc/self/fd/{fd}/keys.psk").read_text()
        return f"/dev/fdset/{opaque}"

    async def take_back_named(self, _: str) -> None:
        """Nothing is held."""


async def _added(directory: Path, endpoint: str, key: str) -> _Monitor:
    monitor = _Monitor()
    await move_keys.add_credentials(
        cast(Qmp, monitor), directory, uid=os.getuid(), key=key, endpoint=endpoint
    )
    return monitor


@pytest.mark.parametrize("endpoint", [RECEIVING, SENDING])
async def test_the_key_is_in_a_file_and_in_nothing_that_is_said(tmp_path: Path, endpoint: str) -> None:
    key = move_keys.new_key()
    monitor = await _added(tmp_path, endpoint, key)
    assert monitor.key_file == f"sandfleet:{key}\n"
    assert key not in repr(monitor.told)
    left = list(tmp_path.rglob("keys.psk"))
    assert len(left) == (endpoint == RECEIVING)  # the sender has read it, the receiver reads it for each call
    await move_keys.remove_credentials(cast(Qmp, monitor), tmp_path)
    assert list(tmp_path.rglob("keys.psk")) == []


@pytest.mark.parametrize("endpoint", [RECEIVING, SENDING])
async def test_what_the_processor_can_do_comes_first(tmp_path: Path, endpoint: str) -> None:
    ((command, told),) = (await _added(tmp_path, endpoint, move_keys.new_key())).told
    ciphers = [one for one in told["priority"].split(":") if one.startswith("+")]
    assert command == "object-add"
    assert ciphers[0] == "+AES-128-GCM"
    assert "+CHACHA20-POLY1305" in ciphers[1:]
    assert "-CIPHER-ALL" in told["priority"]
