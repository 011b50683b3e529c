"""Wiring of the agent: `main` is the whole life of a guest's first process."""

from __future__ import annotations

import argparse
import contextlib
import gc
import os
import signal
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

from sandfleet.agent import boot, power
from sandfleet.agent.cgroups import Cgroups
from sandfleet.agent.console import say, say_exception
from sandfleet.agent.context import Agent
from sandfleet.agent.exec_table import ExecTable
from sandfleet.agent.loop import EventLoop
from sandfleet.agent.operations import table
from sandfleet.agent.places import HOME, WORKSPACE, Places
from sandfleet.agent.reaper import Reaper
from sandfleet.agent.streams import Session
from sandfleet.agent.threads import Threads
from sandfleet.agent.transport import SocketListener, Transport
from sandfleet.wire.agent_messages import PORT_NAME

PORT_PATH = f"/dev/virtio-ports/{PORT_NAME}"
PORT_WAIT_S = 0.02
NAME = "osb-agent"


def main(argv: Sequence[str] | None = None) -> None:
    """Serve until told to stop."""
    options = _options(sys.argv[1:] if argv is None else argv)
    is_init = os.getpid() == 1 and not options.not_init
    # The only threads are our own, and none of them holds a lock that the child needs.
    warnings.filterwarnings("ignore", message=".*multi-threaded.*fork")
    with contextlib.suppress(OSError):
        Path("/proc/self/comm").write_text(NAME)
    if is_init:
        boot.prepare_system()
    loop = EventLoop()
    agent = _agent(loop, options, is_init=is_init)
    listeners = _connect(agent, options.socket)
    if is_init:
        # Done now, and so in no clone: who the user is takes several files to find out.
        agent.has_data_disk = boot.mount_data(agent.users.find(agent.places.user))
    gc.collect()
    gc.freeze()
    say(f"serving, {len(listeners)} listener")
    loop.run()
    agent.execs.end_all()
    if agent.cgroups is not None:
        agent.cgroups.kill_all()


def _options(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=NAME)
    parser.add_argument("--socket", help="serve this unix socket instead of the virtio port")
    parser.add_argument("--not-init", action="store_true", help="leave the machine alone (on a host)")
    parser.add_argument("--home", default=HOME)
    parser.add_argument("--workspace", default=WORKSPACE)
    parser.add_argument("--keep-user", action="store_true", help="run execs as the agent's own user")
    parser.add_argument("--cgroup", help="cgroup v2 directory for execs; none without it on a host")
    return parser.parse_args(argv)


def _agent(loop: EventLoop, options: argparse.Namespace, *, is_init: bool) -> Agent:
    root = options.cgroup or (f"{boot.CGROUP_MOUNT}/sandbox" if is_init else None)
    cgroups = None if root is None else Cgroups(root)
    if cgroups is not None:
        try:
            cgroups.prepare()
        except OSError:
            say_exception("cgroups")
            cgroups = None
    reaper = Reaper(loop)
    agent = Agent(
        loop=loop,
        reaper=reaper,
        threads=Threads(),
        execs=ExecTable(loop, reaper, cgroups),
        cgroups=cgroups,
        places=Places(options.home, options.workspace, switches_user=not options.keep_user),
        is_init=is_init,
    )
    agent.power_off = (lambda: power.power_off(agent)) if is_init else loop.stop
    # A broad `pkill` by root is no wish to lose the machine: the first process hears only what it is sent.
    ending = (signal.SIGPWR,) if is_init else (signal.SIGPWR, signal.SIGTERM, signal.SIGINT)
    for number in (signal.SIGPWR, signal.SIGTERM, signal.SIGINT):
        loop.on_signal(number, agent.power_off if number in ending else _nothing)
    return agent


def _nothing() -> None:
    """Take a signal. A handler, unlike ignoring it, is not inherited by what the agent starts."""


def _connect(agent: Agent, socket_path: str | None) -> list[SocketListener]:
    """Serve the virtio port, or a socket; the listener is returned to be kept."""
    listeners: list[SocketListener] = []
    session: Session

    def on_gone() -> None:
        session.on_gone()
        for listener in listeners:
            listener.next()

    transport = Transport(
        agent.loop,
        on_bytes=lambda data: session.on_bytes(data),
        on_gone=on_gone,
        on_room=lambda: session.pump(),
    )
    session = Session(transport, lambda stream, fields: table.start(agent, stream, fields))
    if socket_path is not None:
        listeners.append(SocketListener(agent.loop, socket_path, transport))
    else:
        _open_port(agent.loop, transport)
    return listeners


def _open_port(loop: EventLoop, transport: Transport) -> None:
    """Open the port as soon as its driver shows it."""
    try:
        fd = os.open(_port_path(), os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        loop.call_later(PORT_WAIT_S, lambda: _open_port(loop, transport))
    else:
        transport.attach(fd, is_port=True)


def _port_path() -> str:
    """Return the port's device; without udev nobody makes the link by its name."""
    if os.path.exists(PORT_PATH):
        return PORT_PATH
    ports = Path("/sys/class/virtio-ports")
    for entry in ports.iterdir():
        if (entry / "name").read_text().strip() == PORT_NAME:
            return f"/dev/{entry.name}"
    raise FileNotFoundError(PORT_PATH)


if __name__ == "__main__":
    main()
