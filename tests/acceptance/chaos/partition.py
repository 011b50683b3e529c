"""Cuts one process off from the others of this machine, as a broken cable would: packets vanish.

The process is put into a cgroup of its own, so that nftables knows what it sends; what it receives is
known by its port. Connections that stood before are cut by their own ports.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from sandfleet.images.root import own_mounts

_ROOT = Path("/sys/fs/cgroup")


@contextmanager
def cut_off(process: psutil.Process, *, port: int, peer_port: int) -> Iterator[None]:
    """Let nothing pass between the process, which listens on `port`, and those at `peer_port`, or anybody."""
    name = f"sandfleet-chaos-{process.pid}"
    unified = _ROOT / "unified" if (_ROOT / "unified" / "cgroup.procs").exists() else _ROOT
    group = unified / name
    group.mkdir(exist_ok=True)
    try:
        (group / "cgroup.procs").write_text(str(process.pid))
        _nft(_rules(name, port=port, peer_port=peer_port, standing=_standing(process, peer_port)), unified)
        yield
    finally:
        _nft(f"table inet {name}\ndelete table inet {name}\n", unified)
        _empty(group, unified)


def _rules(name: str, *, port: int, peer_port: int, standing: list[int]) -> str:
    drops = [
        f"tcp dport {port} drop",
        f"tcp sport {port} drop",
        f'socket cgroupv2 level 1 "{name}" tcp dport {peer_port} drop',
        *(f"tcp sport {own} tcp dport {peer_port} drop" for own in standing),
    ]
    lines = "\n    ".join(drops)
    return (
        f"table inet {name} {{\n  chain out {{\n    type filter hook output priority 0; policy accept;\n"
        f"    {lines}\n  }}\n}}\n"
    )


def _standing(process: psutil.Process, peer_port: int) -> list[int]:
    return [
        one.laddr.port for one in process.net_connections("tcp") if one.raddr and one.raddr.port == peer_port
    ]


def _nft(script: str, unified: Path) -> None:
    # nft looks the cgroup up at the usual place, where an older host has its old hierarchies.
    bound = f"mount --bind {unified} {_ROOT} && " if unified != _ROOT else ""
    done = subprocess.run(
        [*own_mounts(), "sh", "-c", f"{bound}nft -f -"], input=script, text=True, capture_output=True
    )
    assert done.returncode == 0, f"{script}: {done.stderr}"


def _empty(group: Path, unified: Path) -> None:
    for pid in (group / "cgroup.procs").read_text().split():
        with suppress(OSError):
            (unified / "cgroup.procs").write_text(pid)
    with suppress(OSError):
        group.rmdir()
