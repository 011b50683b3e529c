"""The real agent and adapter are held to the same checks as the fake."""

from __future__ import annotations

from pathlib import Path

import pytest

from sandfleet.adapters.guest.virtio_guest import VirtioGuest
from sandfleet.testing.conformance.guest import CHECKS, Check


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
async def test_conformance(check: Check, guest: VirtioGuest, tmp_path: Path) -> None:
    root = tmp_path / "conformance"
    root.mkdir()
    await check(guest, str(root))
