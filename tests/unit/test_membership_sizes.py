"""What a size leaves open of its hardware is taken from the workers that there are."""

from __future__ import annotations

from dataclasses import replace

from sandfleet.model.launch import MachineSize
from sandfleet.planning.fleet import Member
from sandfleet.planning.membership import NOT_LAUNCHED, sizes_as_known
from sandfleet.testing.builders import NOON, a_worker, resources

SIZE = MachineSize("local", "worker", resources(1024))


def member(name: str, size: str, accelerator: str, cpu_model: str = "") -> Member:
    return Member(replace(a_worker(name), accelerator=accelerator, cpu_model=cpu_model), size, NOON)


def test_what_a_size_says_itself_stands() -> None:
    said = replace(SIZE, accelerator="kvm", cpu_model="mine")
    assert sizes_as_known([said], [member("wk-1", "local/worker", "tcg", "other")]) == [said]


def test_workers_of_the_size_know_best() -> None:
    members = [
        member("wk-1", NOT_LAUNCHED, "kvm", "a"),
        member("wk-2", NOT_LAUNCHED, "kvm", "a"),
        member("wk-3", "local/worker", "tcg", "max"),
    ]
    assert sizes_as_known([SIZE], members) == [replace(SIZE, accelerator="tcg", cpu_model="max")]


def test_without_one_it_is_as_most_workers_have_it() -> None:
    members = [
        member("wk-1", NOT_LAUNCHED, "tcg", "max"),
        member("wk-2", NOT_LAUNCHED, "kvm", "a"),
        member("wk-3", NOT_LAUNCHED, "kvm", "a"),
    ]
    assert sizes_as_known([SIZE], members) == [replace(SIZE, accelerator="kvm", cpu_model="a")]


def test_without_any_worker_it_stays_open() -> None:
    assert sizes_as_known([SIZE], []) == [SIZE]
