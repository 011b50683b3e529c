"""What a guest says of its disks."""

from __future__ import annotations

import os
from types import SimpleNamespace

import pytest

from sandfleet.agent.operations.stats import fuller_disk


def test_the_fuller_disk_is_told_whichever_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    disks = {
        "/": SimpleNamespace(f_blocks=100, f_bfree=3, f_frsize=4096),
        "/home/sandbox": SimpleNamespace(f_blocks=1000, f_bfree=500, f_frsize=4096),
        "/empty": SimpleNamespace(f_blocks=0, f_bfree=0, f_frsize=4096),
    }
    monkeypatch.setattr(os, "statvfs", lambda path: disks[str(path)])
    assert fuller_disk("/home/sandbox", "/") == (97 * 4096, 100 * 4096)
    assert fuller_disk("/", "/home/sandbox") == (97 * 4096, 100 * 4096)
    assert fuller_disk("/home/sandbox", "/empty") == (500 * 4096, 1000 * 4096)
