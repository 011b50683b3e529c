"""How fast an organisation creates: looked at before anything is written."""

from __future__ import annotations

import math

from sandfleet.controlplane.http.call import Call
from sandfleet.model.errors import RateLimited
from sandfleet.model.organisation import CREATES_PER_SECOND, Organisation
from sandfleet.planning.rate import Rate


async def require_rate(call: Call, organisation: Organisation, *, count: int = 1) -> None:
    """Count so many creates of the organisation; RateLimited, and nothing is counted, when it is too fast."""
    per_s = organisation.quotas.creates_per_s
    if per_s is None:
        return
    wait_s = await call.edge.rates.take(f"creates:{organisation.id}", Rate(per_s), count=count)
    if wait_s > 0:
        raise RateLimited(
            f"the organisation may create {per_s} sandboxes a second",
            retry_after_s=math.ceil(wait_s),
            details={"quota": CREATES_PER_SECOND, "limit": per_s},
        )
