"""What the API says of a worker that is not heard of: why, and until when."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from tests.waiting import eventually

from sandfleet.testing.builders import a_worker

from .conftest import OpenFleet


async def test_a_worker_that_is_away_is_shown_with_the_reason_and_what_comes_next(
    open_fleet: OpenFleet,
) -> None:
    async with open_fleet(worker_silent_s=1, worker_unreachable_s=4) as fleet:
        await fleet.edge.plane.stores.workers.register(a_worker("wk-away"))

        async def seen(state: str) -> dict[str, Any] | None:
            found: dict[str, Any] = next(
                one
                for one in (await fleet.client.get("/api/workers")).json()
                if one["worker_id"] == "wk-away"
            )
            return found if found["state"] == state else None

        there = await seen("ready")
        assert there is not None
        assert (there["state_reason"], there["state_deadline_at"]) == (None, None)
        silent = await eventually(lambda: seen("silent"), what="the silence to be noticed")
        assert silent["state_reason"].startswith("not heard of since ")
        lasted = datetime.fromisoformat(silent["state_deadline_at"]) - datetime.fromisoformat(
            silent["last_seen_at"]
        )
        assert lasted.total_seconds() == 4
        away = await eventually(lambda: seen("unreachable"), what="the silence to last")
        assert "until somebody says that its host is lost" in away["state_reason"]
        assert away["state_deadline_at"] is None
        await fleet.client.post("/admin/workers/wk-away/forget?lost=true")
        gone = await seen("gone")
        assert gone is not None
        assert gone["state_reason"] == "off the fleet: its host is said to be lost"
