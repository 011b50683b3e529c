"""Organisations with their quotas, and what of them is used: models and flows (scope `admin`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sandfleet_sdk.calls import Call, Flow, path_of
from sandfleet_sdk.models import Organisation
from sandfleet_sdk.sandboxes import idempotency, without_none


@dataclass(frozen=True, slots=True, kw_only=True)
class Quotas:
    """Bounds over all sandboxes of an organisation; None is no bound."""

    sandboxes: int | None = None
    vcpu: int | None = None
    memory_mib: int | None = None
    disk_mib: int | None = None
    creates_per_second: int | None = None

    def body(self) -> dict[str, Any]:
        """Return it as the API has it."""
        return without_none(
            sandboxes=self.sandboxes,
            vcpu=self.vcpu,
            memoryMB=self.memory_mib,
            diskMB=self.disk_mib,
            createsPerSecond=self.creates_per_second,
        )

    @classmethod
    def parse(cls, body: Mapping[str, Any]) -> Quotas:
        """Read what `body` wrote."""
        return cls(
            sandboxes=body.get("sandboxes"),
            vcpu=body.get("vcpu"),
            memory_mib=body.get("memoryMB"),
            disk_mib=body.get("diskMB"),
            creates_per_second=body.get("createsPerSecond"),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Caps:
    """Bounds of each single sandbox; None is no bound."""

    memory_mib: int | None = None
    disk_mib: int | None = None

    def body(self) -> dict[str, Any]:
        """Return it as the API has it."""
        return without_none(memoryMB=self.memory_mib, diskMB=self.disk_mib)

    @classmethod
    def parse(cls, body: Mapping[str, Any]) -> Caps:
        """Read what `body` wrote."""
        return cls(memory_mib=body.get("memoryMB"), disk_mib=body.get("diskMB"))


def get_organisation(organisation_id: str) -> Flow[Organisation]:
    """Return one organisation with what it uses."""
    answer = yield Call(method="GET", path=_path(organisation_id))
    return Organisation.parse(answer.object())


def create_organisation(
    name: str, *, quotas: Quotas | None = None, caps: Caps | None = None
) -> Flow[Organisation]:
    """Make an organisation; its name is its own."""
    body = without_none(name=name, quotas=quotas and quotas.body(), caps=caps and caps.body())
    answer = yield Call(method="POST", path="//admin/orgs", payload=body, headers=idempotency())
    return Organisation.parse(answer.object())


def change_organisation(
    organisation_id: str, *, name: str | None = None, quotas: Quotas | None = None, caps: Caps | None = None
) -> Flow[Organisation]:
    """Change what is given. Quotas and caps are replaced as a whole: what they do not name has no bound."""
    body = without_none(
        name=name,
        quotas=None if quotas is None else quotas.body(),
        caps=None if caps is None else caps.body(),
    )
    answer = yield Call(method="PATCH", path=_path(organisation_id), payload=body)
    return Organisation.parse(answer.object())


def _path(organisation_id: str) -> str:
    return "//" + path_of("admin", "orgs", organisation_id).lstrip("/")
