"""The log of an exec's output: what it keeps, and that its bound cannot be evaded."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sandfleet.agent.output_log import SEGMENT_BYTES_MAX, SEGMENT_COST_BYTES, Budget, OutputLog

writes = st.lists(st.tuples(st.sampled_from([1, 2]), st.binary(min_size=1, max_size=60)), max_size=40)


def read_all(log: OutputLog, offset: int, count_max: int) -> list[tuple[int, bytes]]:
    found = []
    while (piece := log.piece(offset, count_max)) is not None:
        found.append(piece)
        offset += len(piece[1])
    return found


@given(writes, st.integers(1, 30))
def test_what_was_written_is_read_in_order(written: list[tuple[int, bytes]], count_max: int) -> None:
    log = OutputLog(Budget())
    for stream, data in written:
        log.append(stream, data)
    tagged = [(stream, byte) for stream, data in written for byte in data]
    assert [(stream, byte) for stream, data in read_all(log, 0, count_max) for byte in data] == tagged
    for offset in range(log.end + 1):
        rest = read_all(log, offset, count_max)
        assert [(stream, byte) for stream, data in rest for byte in data] == tagged[offset:]


@given(writes, st.integers(0, 2000), st.integers(0, 2000))
def test_trimming_keeps_what_is_needed_and_counts_right(
    written: list[tuple[int, bytes]], size_max: int, needed_from: int
) -> None:
    budget = Budget()
    log = OutputLog(budget)
    for stream, data in written:
        log.append(stream, data)
    was_enough = log.trim(size_max, needed_from=needed_from)
    assert was_enough == (log.size <= size_max)
    assert log.oldest <= max(needed_from, log.end) if needed_from <= log.end else True
    if needed_from < log.end:
        assert log.oldest <= needed_from
        assert log.piece(needed_from, 10) is not None
    assert log.size == budget.used
    log.trim(0)
    assert budget.used == 0
    assert log.oldest == log.end


def test_single_bytes_pay_for_their_bookkeeping() -> None:
    log = OutputLog(Budget())
    for number in range(1000):
        log.append(1 + number % 2, b"x")
    assert log.size >= 1000 * SEGMENT_COST_BYTES


def test_a_run_of_one_stream_shares_segments() -> None:
    log = OutputLog(Budget())
    for _ in range(1000):
        log.append(1, b"x" * 100)
    assert log.size <= 100_000 + (100_000 // SEGMENT_BYTES_MAX + 1) * SEGMENT_COST_BYTES
