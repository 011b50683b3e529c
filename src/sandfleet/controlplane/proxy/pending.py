"""Commands of `run-async` that were accepted before their sandbox was ready.

This replica starts them when the sandbox is; until then `result` tells that they wait.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from sandfleet.model.errors import SandfleetError, Unavailable
from sandfleet.model.ids import ExecId, OrganisationId, SandboxId

PENDING_MAX = 10_000
FAILED_KEPT_MAX = 10_000


@dataclass(slots=True)
class PendingCommands:
    """What waits here, and what could not be started."""

    _waiting: set[tuple[OrganisationId, SandboxId, ExecId]] = field(default_factory=set)
    _failed: dict[tuple[OrganisationId, SandboxId, ExecId], SandfleetError] = field(default_factory=dict)

    def add(self, name: tuple[OrganisationId, SandboxId, ExecId]) -> None:
        """Note a command that waits."""
        if len(self._waiting) >= PENDING_MAX:
            raise Unavailable("too many commands wait for their sandboxes")
        self._waiting.add(name)

    def is_waiting(self, name: tuple[OrganisationId, SandboxId, ExecId]) -> bool:
        """Whether the command has not been given to the sandbox yet."""
        return name in self._waiting

    def failure(self, name: tuple[OrganisationId, SandboxId, ExecId]) -> SandfleetError | None:
        """Return why the command could not be started, if so."""
        return self._failed.get(name)

    def end(
        self, name: tuple[OrganisationId, SandboxId, ExecId], *, failure: SandfleetError | None = None
    ) -> None:
        """Note that the command was started, or that it never will be."""
        self._waiting.discard(name)
        if failure is not None:
            if len(self._failed) >= FAILED_KEPT_MAX:
                self._failed.pop(next(iter(self._failed)))
            self._failed[name] = failure
