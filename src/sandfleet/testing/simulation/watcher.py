"""Who is told of what happens on hosts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sandfleet.testing.simulation.vm import Vm

if TYPE_CHECKING:
    from sandfleet.testing.simulation.host import Host


class Watcher:
    """Told of what happens on hosts, before it is answered; it raises nothing. This one sees nothing."""

    def started(self, host: Host, vm: Vm) -> None:
        """Hear of a VM that runs from now on."""

    def ended(self, host: Host, vm: Vm) -> None:
        """Hear of a VM that is gone."""

    def goes_on(self, host: Host, vm: Vm) -> None:
        """Hear of a VM that stood still for a move and runs on."""

    def noted(self, host: Host, what: str) -> None:
        """Hear of something for the trace."""
