"""What is run in a guest before it is saved as a template, with a real agent."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sandfleet.adapters.guest.virtio_guest import VirtioGuest
from sandfleet.adapters.qemu.template_build import WrongClock, require_true_clock, warm_up
from sandfleet.model.errors import HypervisorFailed
from sandfleet.ports.guest import GuestStats


async def test_what_has_not_ended_fails_the_template(guest: VirtioGuest) -> None:
    with pytest.raises(HypervisorFailed, match=r"sleep 60.* had not ended .* after 0.2 s"):
        await warm_up(guest, [["sleep", "60"], ["true"]], timeout_s=0.2)


async def test_what_ends_or_is_not_there_is_no_failure(guest: VirtioGuest) -> None:
    await warm_up(guest, [["true"], ["false"], ["no-such-program"]], timeout_s=60)
    assert [status.exit_code for status in await guest.list_execs()] == [0, 1]


async def test_a_guest_whose_clock_runs_too_fast_fails_the_template(
    guest: VirtioGuest, monkeypatch: pytest.MonkeyPatch
) -> None:
    await require_true_clock(guest)
    true_stats = guest.stats

    async def stats() -> GuestStats:
        measured = await true_stats()
        return replace(measured, uptime_s=measured.uptime_s * 100)

    monkeypatch.setattr(guest, "stats", stats)
    with pytest.raises(WrongClock, match="clock went on"):
        await require_true_clock(guest)
