"""What the supervisor follows: the machines that the fleet has launched here, as services."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from sandfleet.adapters.machines.local_orders import LocalOrder
from sandfleet.local.launched_machines import LaunchedMachines, PlacedMachine
from sandfleet.local.services import Service


@dataclass(frozen=True, slots=True)
class MachineFollower:
    """How each machine is started, and what is cleared away when its process has ended."""

    machines: LaunchedMachines
    service_of: Callable[[PlacedMachine], Service]
    clear: Callable[[LocalOrder], Awaitable[None]]
    _known: dict[str, Service] = field(default_factory=dict)

    def services(self) -> list[Service]:
        """Return those that are to run; each is prepared once."""
        services = []
        for placed in self.machines.wanted():
            name = placed.order.worker_id
            if name not in self._known:
                self._known[name] = self.service_of(placed)
            services.append(self._known[name])
        return services

    def say_gone(self, order: LocalOrder) -> None:
        """Report that nothing is left of it."""
        self.machines.say_gone(order)
        self._known.pop(order.worker_id, None)
