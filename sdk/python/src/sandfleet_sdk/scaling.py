"""Who may change the size of a sandbox: models and flows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sandfleet_sdk.calls import Call, Flow, path_of
from sandfleet_sdk.sandboxes import without_none


@dataclass(frozen=True, slots=True, kw_only=True)
class Autoscale:
    """Whether the memory follows the use, and between which sizes."""

    enabled: bool
    memory_min_mib: int
    memory_max_mib: int
    raw: Mapping[str, Any] = field(repr=False, compare=False)

    @classmethod
    def parse(cls, body: Mapping[str, Any]) -> Autoscale:
        """Read the answer of `…/autoscale`."""
        return cls(
            enabled=bool(body.get("enabled")),
            memory_min_mib=int(body.get("minMemoryMB") or 0),
            memory_max_mib=int(body.get("maxMemoryMB") or 0),
            raw=body,
        )


def autoscale(sandbox_id: str) -> Flow[Autoscale]:
    """Return whether the memory follows the use."""
    answer = yield Call(method="GET", path=path_of("sandboxes", sandbox_id, "autoscale"))
    return Autoscale.parse(answer.object())


def set_autoscale(
    sandbox_id: str,
    enabled: bool,
    *,
    memory_min_mib: int | None = None,
    memory_max_mib: int | None = None,
) -> Flow[Autoscale]:
    """Have the memory follow the use, or not; bounds that are not given stay as they were."""
    body = without_none(enabled=enabled, minMemoryMB=memory_min_mib, maxMemoryMB=memory_max_mib)
    answer = yield Call(method="PUT", path=path_of("sandboxes", sandbox_id, "autoscale"), payload=body)
    return Autoscale.parse(answer.object())


def scaling_lock(sandbox_id: str) -> Flow[bool]:
    """Return whether the size is locked."""
    answer = yield Call(method="GET", path=path_of("sandboxes", sandbox_id, "scaling-lock"))
    return bool(answer.object().get("locked"))


def set_scaling_lock(sandbox_id: str, locked: bool) -> Flow[bool]:
    """Lock the size for everybody, the guest and the fleet too, or unlock it."""
    answer = yield Call(
        method="PUT", path=path_of("sandboxes", sandbox_id, "scaling-lock"), payload={"locked": locked}
    )
    return bool(answer.object().get("locked"))
