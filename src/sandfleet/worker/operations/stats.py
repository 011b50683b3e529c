"""GET stats: what a sandbox uses now. Looking at it is no activity: the idle time goes on."""

from __future__ import annotations

from typing import Any

from starlette.responses import Response

from sandfleet.ports.guest import GuestStats
from sandfleet.worker.call import Call, json_answer


async def stats(call: Call) -> Response:
    """Answer with what the guest measures of itself."""
    return json_answer(public_stats(await call.guest.stats()))


def public_stats(measured: GuestStats) -> dict[str, Any]:
    """Return the numbers in the API's form."""
    return {
        "cpuPercent": measured.cpu_percent,
        "memUsage": measured.memory_used,
        "memLimit": measured.memory_limit,
        "netInput": measured.net_input,
        "netOutput": measured.net_output,
        "pids": measured.pids,
    }
