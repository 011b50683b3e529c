"""What a VM was measured to cost its host, and the rate between the last two times."""

from __future__ import annotations

from dataclasses import dataclass, field

from sandfleet.ports.hypervisor import MachineUsage


@dataclass(slots=True)
class Measured:
    """The newest figures of one VM. What was not measured is None, memory 0."""

    memory_mib: int = 0
    cpu_used: float | None = None
    """Cores that it kept busy."""
    disk_mib: int | None = None
    _read: tuple[float, float] | None = field(default=None, repr=False)
    """When its CPU time was last read, and what it was."""

    def note(self, *, memory_mib: int, usage: MachineUsage, at_s: float) -> None:
        """Take new figures in. CPU time that fell is that of another process: the rate is not known then."""
        self.memory_mib, self.disk_mib = memory_mib, usage.disk_mib
        before, self._read = self._read, (at_s, usage.cpu_s)
        if before is None or at_s <= before[0]:
            return
        spent_s = usage.cpu_s - before[1]
        self.cpu_used = spent_s / (at_s - before[0]) if spent_s >= 0 else None
