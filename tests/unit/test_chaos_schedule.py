"""The order of faults follows from the seed, and none is forgotten."""

from __future__ import annotations

from itertools import islice

from tests.acceptance.chaos.faults import BY_LEADER, FAULTS, rounds


def test_a_seed_is_an_order_of_faults() -> None:
    first, again = (list(islice(rounds(7), 60)) for _ in range(2))
    assert first == again
    assert first != list(islice(rounds(8), 60))


def test_every_kind_comes_before_one_comes_again() -> None:
    kinds = [this.faults[0].kind for this in islice(rounds(3), 2 * len(FAULTS))]
    assert set(kinds[: len(FAULTS)]) == set(kinds[len(FAULTS) :]) == set(FAULTS)
    assert set(FAULTS) > BY_LEADER
