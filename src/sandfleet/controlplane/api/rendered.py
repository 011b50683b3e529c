"""The JSON of sandboxes that are read again and again without having changed.

Rule: what is kept is used only for a row that is equal in every field, under the same token and origin;
so nothing can be told that is not so. What holds a secret is not kept.
"""

from __future__ import annotations

from collections.abc import Callable

from sandfleet.model.ids import SandboxId
from sandfleet.model.sandbox import Sandbox

KEPT_MAX = 2000


class Rendered:
    """Remembers what was last made of each sandbox."""

    def __init__(self) -> None:
        self._kept: dict[SandboxId, tuple[Sandbox, str, str, bytes]] = {}

    def json_of(self, sandbox: Sandbox, *, token: str, origin: str, render: Callable[[], bytes]) -> bytes:
        """Return what `render` returns, or has returned for the same."""
        known = self._kept.get(sandbox.id)
        if known is not None:
            row, its_token, its_origin, body = known
            if (row is sandbox or row == sandbox) and its_token == token and its_origin == origin:
                return body
        body = render()
        if not sandbox.envs:
            if len(self._kept) >= KEPT_MAX:
                self._kept.clear()
            self._kept[sandbox.id] = (sandbox, token, origin, body)
        return body
