"""Connecting a machine's namespace, in which its tap is, with the host."""

from __future__ import annotations

import os

from sandfleet.adapters.network import nftables, plan
from sandfleet.adapters.network.rtnetlink import KernelNetwork, new_pair

THIS_NAMESPACE = "/proc/thread-self/ns/net"


def connect(host: KernelNetwork, names: plan.Links, *, rules_text: str) -> None:
    """Do it, in a thread that is inside the namespace."""
    # The rules come first: there is no moment at which the guest is connected and not confined.
    nftables.carry_out(rules_text)
    here = os.open(THIS_NAMESPACE, os.O_RDONLY | os.O_CLOEXEC)
    try:
        host.carry_out([new_pair(names.host_link, peer=plan.UPLINK, peer_namespace_fd=here)])
    finally:
        os.close(here)
    host.carry_out(plan.outside(names, link=host.index_of(names.host_link)))
    with KernelNetwork() as inner:
        tap, uplink = inner.index_of(plan.TAP), inner.index_of(plan.UPLINK)
        inner.carry_out(plan.inside(names, tap=tap, uplink=uplink))
