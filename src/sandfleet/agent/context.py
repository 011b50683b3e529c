"""What operations work with: the parts of one agent, wired once in `main`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from sandfleet.agent.cgroups import Cgroups
from sandfleet.agent.exec_table import ExecTable
from sandfleet.agent.loop import EventLoop
from sandfleet.agent.places import Places
from sandfleet.agent.reaper import Reaper
from sandfleet.agent.threads import Threads
from sandfleet.agent.users import Users


@dataclass(slots=True)
class Agent:
    """The agent of one guest. `is_init` is False for one that runs on a host for tests."""

    loop: EventLoop
    reaper: Reaper
    threads: Threads
    execs: ExecTable
    cgroups: Cgroups | None
    places: Places
    is_init: bool
    users: Users = field(default_factory=Users)
    identity_envs: dict[str, str] = field(default_factory=dict)
    has_identity: bool = False
    has_kept_id: bool = False
    """Whether the machine id is on the disk (see `machine_id`)."""
    has_data_disk: bool = False
    is_used: bool = False
    """Whether anybody but the agent may have changed a file of this guest."""
    cpu_sample: tuple[float, float] | None = None
    power_off: Callable[[], None] = lambda: None
