"""What may befall a fleet on one machine, and which of it when: a schedule from a seed.

A fault is done to real processes: killed, stopped for longer than a lease, restarted, emptied, cut off. The
seed decides the order, the victims and the lengths; how far the victims were at that moment is theirs.
"""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass

import psutil
from tests.acceptance.chaos.partition import cut_off
from tests.acceptance.chaos.victims import Victims

LONGER_THAN_A_LEASE_S = (8.0, 14.0)
PARTITION_S = (6.0, 14.0)
QUIET_S = (3.0, 9.0)
TWO_AT_ONCE = 0.2


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that happens: to whom and how long."""

    kind: str
    victim: int
    """Which of several, as a number to be taken modulo their count."""
    length_s: float


@dataclass(frozen=True, slots=True)
class Round:
    """Faults at the same time, after a while of quiet."""

    quiet_s: float
    faults: tuple[Fault, ...]


def rounds(seed: int) -> Iterator[Round]:
    """Give the rounds of a seed, without end: each kind of fault once in random order, then again."""
    dice = random.Random(seed)
    while True:
        kinds = list(FAULTS)
        dice.shuffle(kinds)
        for kind in kinds:
            faults = [_fault(kind, dice)]
            if dice.random() < TWO_AT_ONCE:
                faults.append(_fault(dice.choice([other for other in kinds if other != kind]), dice))
            yield Round(dice.uniform(*QUIET_S), tuple(faults))


def _fault(kind: str, dice: random.Random) -> Fault:
    length = PARTITION_S if kind == "partition_worker" else LONGER_THAN_A_LEASE_S
    return Fault(kind, dice.randrange(1000), round(dice.uniform(*length), 2))


def commit(fault: Fault, victims: Victims) -> None:
    """Do it, and undo what passes: return when the victim is left alone again."""
    # Another fault may have killed it meanwhile.
    with suppress(psutil.NoSuchProcess):
        FAULTS[fault.kind](fault, victims)


def _kill(role: str) -> Callable[[Fault, Victims], None]:
    return lambda fault, victims: victims.send(role, fault.victim, signal.SIGKILL)


def _kill_all(role: str) -> Callable[[Fault, Victims], None]:
    def kill(_fault_: Fault, victims: Victims) -> None:
        for process in victims.all(role):
            process.kill()

    return kill


def _end(role: str, how: signal.Signals = signal.SIGTERM) -> Callable[[Fault, Victims], None]:
    return lambda fault, victims: victims.send(role, fault.victim, how)


def _pause(role: str) -> Callable[[Fault, Victims], None]:
    def pause(fault: Fault, victims: Victims) -> None:
        process = victims.one(role, fault.victim)
        process.send_signal(signal.SIGSTOP)
        try:
            time.sleep(fault.length_s)
        finally:
            process.send_signal(signal.SIGCONT)

    return pause


def _kill_leader(_fault_: Fault, victims: Victims) -> None:
    victims.send_leader(signal.SIGKILL)


def _pause_leader(fault: Fault, victims: Victims) -> None:
    process = victims.leader()
    process.send_signal(signal.SIGSTOP)
    try:
        time.sleep(fault.length_s)
    finally:
        process.send_signal(signal.SIGCONT)


def _flush(_fault_: Fault, victims: Victims) -> None:
    victims.flush_redis()


def _partition(fault: Fault, victims: Victims) -> None:
    worker = victims.one("worker", fault.victim)
    with cut_off(worker, port=victims.port_of(worker.pid), peer_port=victims.api_port):
        time.sleep(fault.length_s)


FAULTS: dict[str, Callable[[Fault, Victims], None]] = {
    "kill_leader": _kill_leader,
    "kill_server": _kill("server"),
    "kill_all_servers": _kill_all("server"),
    "kill_all_workers": _kill_all("worker"),
    "pause_leader": _pause_leader,
    "pause_server": _pause("server"),
    "restart_server": _end("server"),
    "kill_worker": _kill("worker"),
    "pause_worker": _pause("worker"),
    "restart_worker": _end("worker"),
    "partition_worker": _partition,
    "flush_redis": _flush,
    "kill_redis": _kill("valkey"),
    "restart_redis": _end("valkey"),
    "kill_postgres": _kill("postgres"),
    "restart_postgres": _end("postgres", signal.SIGINT),
    "kill_balancer": _kill("balancer"),
    "restart_balancer": _end("balancer"),
}
BY_LEADER = frozenset({"kill_leader", "pause_leader"})
"""Faults after which another must lead: their fail-over times are measured."""
