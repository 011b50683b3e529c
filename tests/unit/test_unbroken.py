"""A reader of the whole log misses no row, and waits for none that never comes."""

from __future__ import annotations

from sandfleet.lifecycle.event_types import EVENTS_OF_TYPE, FLEET_TYPES, OTHER, events_of, type_of
from sandfleet.model.transition import Transition
from sandfleet.planning.unbroken import PATIENCE_S, Unbroken
from sandfleet.testing.builders import a_transition


def rows(*numbers: int) -> list[Transition]:
    return [a_transition(id=number) for number in numbers]


def test_what_follows_a_missing_number_waits_for_it() -> None:
    reader = Unbroken(4)
    assert reader.take(rows(5, 7), now_s=0) == rows(5)
    assert reader.take(rows(7), now_s=1) == []
    assert reader.take(rows(6, 7), now_s=2) == rows(6, 7)
    assert reader.after == 7


def test_a_number_that_never_comes_is_given_up_after_a_while() -> None:
    reader = Unbroken(0)
    assert reader.take(rows(2, 5), now_s=10) == []
    assert reader.take(rows(2, 5), now_s=10 + PATIENCE_S - 0.1) == []
    assert reader.take(rows(2, 5), now_s=10 + PATIENCE_S) == rows(2)
    assert reader.take(rows(5), now_s=10 + 2 * PATIENCE_S) == rows(5)


def test_each_event_is_of_one_type() -> None:
    named = [event for events in EVENTS_OF_TYPE.values() for event in events]
    assert len(named) == len(set(named))
    assert {type_of(event) for event in events_of(FLEET_TYPES)} == FLEET_TYPES
    assert type_of("uploaded") == OTHER
