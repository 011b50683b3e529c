"""What the steps of a demo share: its client, its sandboxes, what was measured."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from sandfleet.local.demo_owner import ownership
from sandfleet.local.demo_report import DemoReport, NotVerified
from sandfleet.local.layout import Layout
from sandfleet_sdk import Client, ExecResult

TIMEOUT_S = 600
BOOT_ID = "cat /proc/sys/kernel/random/boot_id"
"""A shell line whose output is another after each boot."""


def require(is_so: object, otherwise: str) -> None:
    """Raise NotVerified with `otherwise` unless `is_so`."""
    if not is_so:
        raise NotVerified(otherwise)


@dataclass(slots=True)
class Tour:
    """What the steps share."""

    layout: Layout
    client: Client
    report: DemoReport
    sandboxes: list[str] = field(default_factory=list)

    @property
    def first(self) -> str:
        """The sandbox that most steps use."""
        return self.sandboxes[0]

    def run(self, command: str, *, sandbox: str | None = None) -> ExecResult:
        """Run a shell line, which must succeed."""
        result = self.client.commands.run(sandbox or self.first, command)
        if result.exit_code != 0:
            raise NotVerified(f"`{command}` ended with {result.exit_code}: {result.stderr.strip()[-300:]}")
        return result

    @contextmanager
    def measured(self, name: str) -> Iterator[None]:
        """Keep how many milliseconds the block took."""
        begun = time.monotonic()
        yield
        self.report.measured[name] = (time.monotonic() - begun) * 1000

    def create(self, name: str) -> str:
        """Create a sandbox and remember it."""
        with self.measured(name):
            sandbox = self.client.sandboxes.create(timeout_s=TIMEOUT_S, metadata=ownership())
        self.sandboxes.append(sandbox.id)
        return sandbox.id

    def wait_for(self, command: str) -> None:
        """Return when a shell line succeeds in the first sandbox, within 10 s."""
        result = self.client.commands.run(
            self.first, f"for n in $(seq 100); do {command} && exit 0; sleep 0.1; done; exit 1"
        )
        require(result.exit_code == 0, f"`{command}` did not come true within 10 s")
