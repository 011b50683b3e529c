"""Become somebody: randomness, machine id, host keys, host name, clock, data disk, environment."""

from __future__ import annotations

import binascii
import time

from sandfleet.agent import host_keys, machine_id, network
from sandfleet.agent.console import say, say_exception
from sandfleet.agent.context import Agent
from sandfleet.agent.data_disk import mount_data_disk
from sandfleet.agent.programs import run_program
from sandfleet.agent.randomness import reseed
from sandfleet.agent.streams import Stream
from sandfleet.agent.users import ids_of
from sandfleet.wire.agent_messages import WARM_EXEC_PREFIX, Code, Fields, OperationFailed

SEED_BYTES_MAX = 512
HOST_NAME_LENGTH_MAX = 63


def start(agent: Agent, stream: Stream, fields: Fields) -> None:
    """The first time, and with `renew`, everything is made anew; later only what a claim changes.

    A guest that was booted anew from disks which are its own keeps what it is known by.
    Each clone runs this for the first time, which in a translated guest costs more than what it does:
    so it goes without what has much code behind it (patterns, files that could be open already).
    """
    is_new = become(agent, fields)
    if is_new and agent.is_init:
        _make_keys(agent, is_known=fields.flag("known", False))
    agent.has_identity = True
    stream.finish({})


def rehearse(agent: Agent, stream: Stream, fields: Fields) -> None:
    """Become somebody and nobody again: what has run before a template is saved is cheaper in its clones."""
    if agent.has_identity or agent.is_used:
        raise OperationFailed(Code.BAD_REQUEST, "this guest is somebody already")
    become(agent, fields)
    host_keys.keygen_command(is_unchanged=True)
    if agent.is_init:
        machine_id.forget()
    agent.identity_envs = {}
    stream.finish({})


def become(agent: Agent, fields: Fields) -> bool:
    """Do what is the same for all; return whether it is somebody new."""
    host_name = fields.text("host_name")
    if not is_host_name(host_name):
        raise OperationFailed(Code.BAD_REQUEST, "not a host name")
    seed = _seed(fields)
    agent.identity_envs = fields.text_map("envs")
    agent.execs.forget_all(prefix=WARM_EXEC_PREFIX)
    is_new = not agent.has_identity or fields.flag("renew", False)
    if agent.is_init:
        # The order matters: everything random comes after the new seed.
        reseed(seed)
        set_clock(fields.number("wall_clock_s"))
        network.set_host_name(host_name)
        if is_new:
            _make_new(agent, is_known=fields.flag("known", False))
    return is_new


def is_host_name(name: str) -> bool:
    """Whether it has letters, digits and, between them, hyphens."""
    if not name.isascii() or len(name) > HOST_NAME_LENGTH_MAX:
        return False
    return name.replace("-", "").isalnum() and name[0] != "-" and name[-1] != "-"


def set_clock(wall_clock_s: float) -> None:
    """Step the clock."""
    time.clock_settime_ns(time.CLOCK_REALTIME, int(wall_clock_s * 1e9))


def _seed(fields: Fields) -> bytes:
    try:
        seed = binascii.a2b_base64(fields.text("seed"), strict_mode=True)
    except (binascii.Error, ValueError) as error:
        raise OperationFailed(Code.BAD_REQUEST, "the seed is not base64") from error
    if not 16 <= len(seed) <= SEED_BYTES_MAX:
        raise OperationFailed(Code.BAD_REQUEST, f"a seed of {len(seed)} bytes")
    return seed


def _make_new(agent: Agent, *, is_known: bool) -> None:
    if not is_known or not machine_id.is_there():
        machine_id.make()
        agent.has_kept_id = False
    if not agent.has_data_disk:
        _mount(agent)


def _make_keys(agent: Agent, *, is_known: bool) -> None:
    keygen = host_keys.keygen_command(is_unchanged=not agent.is_used)
    if keygen is None:
        return
    if not is_known:
        host_keys.remove_host_keys()
    try:  # slow without acceleration: nobody waits for it
        run_program(agent, keygen, lambda code, said: say(f"host keys: exit code {code} {said}"))
    except OSError:
        say_exception("host keys")


def _mount(agent: Agent) -> None:
    owner = ids_of(agent.users, agent.places.user, switches_user=True)
    if owner is not None:
        agent.has_data_disk = mount_data_disk(owner=owner)
