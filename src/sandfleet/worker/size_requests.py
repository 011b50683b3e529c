"""Asking the control plane for another size, on behalf of the sandbox that wants it."""

from __future__ import annotations

from typing import Any

import aiohttp
import msgspec

from sandfleet.wire.worker_messages import EPOCH_HEADER

TIMEOUT_S = 60.0
ANSWER_BYTES_MAX = 64 * 1024


class SizeRequests:
    """Calls of the control plane's internal route, under the join token."""

    def __init__(
        self, session: aiohttp.ClientSession, *, control_url: str, worker_id: str, join_token: str
    ) -> None:
        self._session = session
        self._root = f"{control_url.rstrip('/')}/internal/workers/{worker_id}/sandboxes"
        self._join_token = join_token

    async def __call__(self, sandbox_id: str, epoch: int, body: bytes) -> tuple[int, dict[str, Any]]:
        """Return the status and the body of the answer."""
        headers = {
            "Authorization": f"Bearer {self._join_token}",
            "Content-Type": "application/json",
            EPOCH_HEADER: str(epoch),
        }
        async with self._session.post(
            f"{self._root}/{sandbox_id}/scale",
            data=body,
            headers=headers,
            timeout=aiohttp.ClientTimeout(total=TIMEOUT_S),
        ) as response:
            raw = await response.content.read(ANSWER_BYTES_MAX)
            try:
                return response.status, msgspec.json.decode(raw, type=dict[str, Any])
            except msgspec.DecodeError:
                return 503, {"error": "the control plane answered what cannot be read"}
