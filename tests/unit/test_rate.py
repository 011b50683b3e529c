"""A bucket that fills at a rate: how many come through, and when the next may ask."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sandfleet.planning.rate import US, Rate, taken

arrivals = st.lists(st.tuples(st.integers(0, 2 * US), st.integers(1, 5)), max_size=60)


def test_a_second_s_worth_comes_at_once_and_then_one_after_the_other() -> None:
    full_at_us, waits = 0, []
    for _ in range(7):
        full_at_us, wait_us = taken(Rate(5), full_at_us, count=1, now_us=100 * US)
        waits.append(wait_us)
    assert waits == [0, 0, 0, 0, 0, US // 5, US // 5]
    assert taken(Rate(5), full_at_us, count=1, now_us=100 * US + US // 5)[1] == 0


def test_many_at_once_are_let_through_and_made_good_by_the_next() -> None:
    full_at_us, wait_us = taken(Rate(10), 0, count=100, now_us=50 * US)
    assert wait_us == 0
    assert taken(Rate(10), full_at_us, count=1, now_us=50 * US)[1] == 9.1 * US


def test_one_a_second_is_one_a_second() -> None:
    full_at_us, _ = taken(Rate(1), 0, count=1, now_us=10 * US)
    assert taken(Rate(1), full_at_us, count=1, now_us=11 * US - 1)[1] == 1
    assert taken(Rate(1), full_at_us, count=1, now_us=11 * US)[1] == 0


@given(st.integers(1, 50), arrivals)
def test_in_no_time_more_come_through_than_the_rate_and_one_second_s_worth(
    per_s: int, comings: list[tuple[int, int]]
) -> None:
    now_us, full_at_us, through = 0, 0, 0
    for pause_us, count in comings:
        now_us += pause_us
        before = full_at_us
        full_at_us, wait_us = taken(Rate(per_s), full_at_us, count=count, now_us=now_us)
        if wait_us == 0:
            # The last of them may ask for more than there is: before it there was one at least.
            assert through + 1 <= per_s * (now_us / US + 1) + 1e-6
            through += count
        else:
            assert full_at_us == max(before, now_us)
            assert taken(Rate(per_s), full_at_us, count=1, now_us=now_us + wait_us)[1] == 0
