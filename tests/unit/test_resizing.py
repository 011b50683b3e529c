"""Whether a sandbox may become larger where it is."""

from __future__ import annotations

import pytest

from sandfleet.model.errors import SizeOutOfRange
from sandfleet.model.resources import Resources, SizeLimits
from sandfleet.planning.placement import PlacementPolicy
from sandfleet.planning.resizing import resized_memory, shortage
from sandfleet.testing.builders import a_worker


def test_memory_is_rounded_up_to_the_block_within_its_range() -> None:
    limits = SizeLimits()
    assert [resized_memory(limits, size) for size in (512, 513, 2000, 65536)] == [512, 640, 2048, 65536]
    for size in (1, 511, 65537):
        with pytest.raises(SizeOutOfRange):
            resized_memory(limits, size)


def test_a_worker_promises_no_more_than_the_policy_lets_it() -> None:
    from dataclasses import replace

    worker = replace(a_worker(), total=Resources(4096, 8, 10**6), committed=Resources(3072, 1, 20480))
    assert shortage(worker, 1024, PlacementPolicy()) is None
    assert shortage(worker, 1025, PlacementPolicy()) == (
        "short of 1025 MiB memory: 1024 of 4096 MiB are free"
    )
    assert shortage(worker, 2048, PlacementPolicy(memory_ratio_max=2.0)) is None
    assert "0 of 2048" in (shortage(worker, 1, PlacementPolicy(memory_ratio_max=0.5)) or "")
