"""Effective sizes: defaults, rounding, ranges, caps."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandfleet.model.errors import Forbidden, PlanLimit, SizeOutOfRange
from sandfleet.model.organisation import Caps
from sandfleet.model.resources import Resources, SizeLimits
from sandfleet.planning.sizing import check_caps, effective_resources, forked_resources

LIMITS = SizeLimits()


@pytest.mark.parametrize(
    ("memory", "cpu", "expected"),
    [
        (None, None, (1024, 1)),
        (None, 1, (1024, 1)),
        (None, 2, (8192, 2)),
        (None, 16, (65536, 16)),
        (512, None, (512, 1)),
        (513, None, (640, 1)),
        (4096, None, (4096, 1)),
        (4097, None, (4224, 2)),
        (65536, None, (65536, 16)),
        (1024, 8, (1024, 8)),
    ],
)
def test_memory_and_cpus(memory: int | None, cpu: int | None, expected: tuple[int, int]) -> None:
    got = effective_resources(LIMITS, memory_mib=memory, cpu_count=cpu, disk_mib=None)
    assert (got.memory_mib, got.cpu_count) == expected
    assert got.disk_mib == 20480


@pytest.mark.parametrize(
    ("memory", "cpu", "disk", "code"),
    [
        (511, None, None, "memory_out_of_range"),
        (65537, None, None, "memory_out_of_range"),
        (-1, None, None, "memory_out_of_range"),
        (None, 0, None, "cpu_out_of_range"),
        (None, 17, None, "cpu_out_of_range"),
        (1024, 17, None, "cpu_out_of_range"),
        (None, None, 20479, "disk_out_of_range"),
        (None, None, 262145, "disk_out_of_range"),
    ],
)
def test_outside_the_ranges(memory: int | None, cpu: int | None, disk: int | None, code: str) -> None:
    with pytest.raises(SizeOutOfRange) as refused:
        effective_resources(LIMITS, memory_mib=memory, cpu_count=cpu, disk_mib=disk)
    assert refused.value.code == code
    assert refused.value.details


@given(st.integers(512, 65536))
def test_rounding_gives_at_least_what_was_asked(memory: int) -> None:
    got = effective_resources(LIMITS, memory_mib=memory, cpu_count=None, disk_mib=None)
    assert memory <= got.memory_mib < memory + 128
    assert got.memory_mib % 128 == 0


def test_caps_of_the_organisation() -> None:
    size = Resources(memory_mib=2048, cpu_count=1, disk_mib=30000)
    check_caps(size, Caps())
    check_caps(size, Caps(memory_mib=2048, disk_mib=30000))
    with pytest.raises(PlanLimit):
        check_caps(size, Caps(memory_mib=2047))
    with pytest.raises(Forbidden) as refused:
        check_caps(size, Caps(disk_mib=29999))
    assert refused.value.code == "disk_limit"


@pytest.mark.parametrize(
    ("memory_mib", "disk_mib", "expected"),
    [
        (None, None, (2048, 30720)),
        (512, 20480, (2048, 30720)),
        (3000, 40000, (3072, 40000)),
    ],
)
def test_a_fork_is_at_least_as_large_as_its_source(
    memory_mib: int | None, disk_mib: int | None, expected: tuple[int, int]
) -> None:
    source = Resources(memory_mib=2048, cpu_count=2, disk_mib=30720)
    size = forked_resources(source, SizeLimits(), memory_mib=memory_mib, cpu_count=None, disk_mib=disk_mib)
    assert (size.memory_mib, size.disk_mib, size.cpu_count) == (*expected, 2)


@pytest.mark.parametrize(
    ("memory_mib", "cpu_count", "expected"),
    [(None, None, 2), (None, 1, 2), (None, 4, 4), (16384, None, 4), (3000, None, 2)],
)
def test_a_fork_has_the_processors_of_its_source_or_more(
    memory_mib: int | None, cpu_count: int | None, expected: int
) -> None:
    source = Resources(memory_mib=2048, cpu_count=2, disk_mib=30720)
    size = forked_resources(source, SizeLimits(), memory_mib=memory_mib, cpu_count=cpu_count, disk_mib=None)
    assert size.cpu_count == expected
    small = Resources(memory_mib=8192, cpu_count=1, disk_mib=30720)
    unasked = forked_resources(small, SizeLimits(), memory_mib=None, cpu_count=None, disk_mib=None)
    assert unasked == small


def test_a_fork_outside_the_range_is_refused() -> None:
    source = Resources(memory_mib=2048, cpu_count=2, disk_mib=30720)
    with pytest.raises(SizeOutOfRange):
        forked_resources(source, SizeLimits(), memory_mib=5, cpu_count=None, disk_mib=None)
