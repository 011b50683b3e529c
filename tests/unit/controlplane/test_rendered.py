"""What was made of a sandbox is used again for the same sandbox only."""

from __future__ import annotations

from dataclasses import fields, replace
from datetime import timedelta
from typing import Any

import pytest

from sandfleet.controlplane.api import rendered
from sandfleet.controlplane.api.rendered import Rendered
from sandfleet.model.resources import Resources
from sandfleet.model.sandbox import Sandbox, SandboxState, StopReason
from sandfleet.testing.builders import a_sandbox
from sandfleet.testing.clock import BEGINNING


class Maker:
    """Counts how often something was made."""

    def __init__(self) -> None:
        self.made = 0

    def of(self, kept: Rendered, sandbox: Sandbox, *, token: str = "t", origin: str = "o") -> bytes:
        def render() -> bytes:
            self.made += 1
            return f"{self.made}".encode()

        return kept.json_of(sandbox, token=token, origin=origin, render=render)


def other(value: Any, name: str) -> Any:
    """Return another value of the same kind."""
    if isinstance(value, SandboxState):
        return SandboxState.ERROR
    if isinstance(value, Resources):
        return replace(value, memory_mib=value.memory_mib + 1)
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    if name == "stop_reason":
        return StopReason.CRASH
    if name.endswith("_at"):
        return (value or BEGINNING) + timedelta(microseconds=1)
    if name in ("metadata", "tags", "envs"):
        return {**value, "more": "x"}
    if name == "preview_digest":
        return b"x"
    return 7 if name == "cpu_percent" else f"{value}x"


@pytest.mark.parametrize("name", [one.name for one in fields(Sandbox)])
def test_a_sandbox_that_differs_in_any_field_is_made_anew(name: str) -> None:
    kept, maker, sandbox = Rendered(), Maker(), a_sandbox()
    assert maker.of(kept, sandbox) == maker.of(kept, replace(sandbox)) == b"1"
    changed = replace(sandbox, **{name: other(getattr(sandbox, name), name)})
    assert maker.of(kept, changed) == b"2"


def test_another_token_or_origin_is_made_anew() -> None:
    kept, maker, sandbox = Rendered(), Maker(), a_sandbox()
    maker.of(kept, sandbox)
    assert maker.of(kept, sandbox, token="u") == b"2"
    assert maker.of(kept, sandbox, token="u", origin="p") == b"3"
    assert maker.of(kept, sandbox, token="u", origin="p") == b"3"


def test_what_holds_a_secret_is_not_kept() -> None:
    kept, maker, sandbox = Rendered(), Maker(), a_sandbox(envs={"PASSWORD": "x"})
    assert [maker.of(kept, sandbox), maker.of(kept, sandbox)] == [b"1", b"2"]
    assert not kept._kept


def test_no_more_are_kept_than_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rendered, "KEPT_MAX", 3)
    kept, maker = Rendered(), Maker()
    for number in range(10):
        maker.of(kept, a_sandbox(f"sb-{number}"))
        assert len(kept._kept) <= 3
