"""What the suites for stores are made of: a check, and the way to say that something must be refused."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any

from sandfleet.controlplane.dependencies import Stores
from sandfleet.model.sandbox import Sandbox
from sandfleet.testing.builders import a_sandbox, a_transition, an_operation

Check = Callable[[Stores], Awaitable[None]]
"""Is given stores that hold nothing."""


class refusing:
    """A block that must raise an error of the kind; `value` is what it raised."""

    def __init__(self, kind: type[Exception]) -> None:
        self._kind = kind
        self.value: Any = None

    def __enter__(self) -> refusing:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        assert error is not None, f"nothing was raised: {self._kind.__name__} was expected"
        self.value = error
        return isinstance(error, self._kind)


async def create(stores: Stores, name: str, **changes: Any) -> Sandbox:
    """Insert a sandbox with its create operation."""
    sandbox = a_sandbox(name, **changes)
    operation = an_operation(f"op-{name}", sandbox=name, organisation_id=sandbox.organisation_id)
    log = a_transition(sandbox_id=sandbox.id, organisation_id=sandbox.organisation_id)
    await stores.sandboxes.create(sandbox, operation, log)
    return sandbox
