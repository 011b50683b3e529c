"""`doctor`: can this machine run sandboxes, and if not, what has to be done."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import msgspec

from sandfleet.local import machine
from sandfleet.local.balancer import find_program
from sandfleet.local.configuration import load_configuration
from sandfleet.local.image import current_image, templates_dir
from sandfleet.local.layout import Layout
from sandfleet.local.ports import is_free
from sandfleet.local.state import read_state
from sandfleet.model.errors import HypervisorFailed

_QEMU_MIN = (10, 0)
_TOOL_TIMEOUT_S = 10
_MEMORY_MIB_MIN = 1536
_MEMORY_MIB_GOOD = 4096
_DISK_MIB_MIN = 2048
_DISK_MIB_GOOD = 10240
_MIB = 2**20


class Verdict(StrEnum):
    """How a check ended."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Finding:
    """One check: what was found, and what to do about it."""

    subject: str
    verdict: Verdict
    fact: str
    advice: str = ""

    def as_json(self) -> dict[str, Any]:
        """Return it for programs."""
        return {
            "subject": self.subject,
            "verdict": self.verdict.value,
            "fact": self.fact,
            "advice": self.advice or None,
        }


def examine(layout: Layout) -> list[Finding]:
    """Make every check; none changes anything but a network namespace that is made and removed."""
    checks: Sequence[Callable[[], Finding]] = (
        _system,
        _privileges,
        _qemu,
        _accelerator,
        _image,
        _template,
        _cgroups,
        _network,
        _firewall,
        lambda: _ports(layout),
        lambda: _balancer(layout),
        lambda: _fleet(layout),
        _memory,
        lambda: _disk("data disk", layout.data_dir),
        lambda: _disk("cache disk", templates_dir()),
    )
    return [_made(check) for check in checks]


def _made(check: Callable[[], Finding]) -> Finding:
    try:
        return check()
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        name = getattr(check, "__name__", "check").strip("_<>")
        return Finding(name, Verdict.FAIL, f"cannot be examined: {error}")


def _system() -> Finding:
    facts = platform.freedesktop_os_release()
    name = f"{facts.get('PRETTY_NAME', 'unknown')}, Linux {platform.release()}, {platform.machine()}"
    known = {facts.get("ID", ""), *facts.get("ID_LIKE", "").split()}
    if known & {"debian", "ubuntu"}:
        return Finding("system", Verdict.OK, name)
    return Finding("system", Verdict.WARN, name, "only Debian and Ubuntu are tested")


def _privileges() -> Finding:
    if os.geteuid() == 0:
        return Finding("privileges", Verdict.OK, "root; VMs and stores run under uids of their own")
    return Finding(
        "privileges", Verdict.FAIL, "not root", "namespaces and cgroups need root: run it with sudo"
    )


def _qemu() -> Finding:
    missing = [tool for tool in ("qemu-system-x86_64", "qemu-img") if shutil.which(tool) is None]
    if missing:
        return Finding("QEMU", Verdict.FAIL, f"{', '.join(missing)} not found", "run `make setup`")
    words = _run("qemu-system-x86_64", "--version").split()
    version = words[words.index("version") + 1]
    numbers = tuple(int(part) for part in version.split(".")[:2])
    if numbers < _QEMU_MIN:
        return Finding("QEMU", Verdict.FAIL, version, "version 10 is needed: `make setup` installs it")
    return Finding("QEMU", Verdict.OK, version)


class _Accelerator(msgspec.Struct):
    name: str
    reason: str


def _accelerator() -> Finding:
    # The worker found it out by booting a guest; looking at /dev/kvm alone would prove nothing.
    cached = templates_dir() / "accelerator.json"
    if not cached.exists():
        device = "/dev/kvm is there" if Path("/dev/kvm").exists() else "there is no /dev/kvm"
        return Finding(
            "accelerator", Verdict.WARN, f"not yet tried ({device})", "the first `sandfleet up` tries it"
        )
    known = msgspec.json.decode(cached.read_bytes(), type=_Accelerator)
    if known.name == "kvm":
        return Finding("accelerator", Verdict.OK, f"KVM: {known.reason}")
    return Finding(
        "accelerator",
        Verdict.WARN,
        f"emulation: {known.reason}",
        f"everything works, code in guests runs several times slower; to try again remove {cached}",
    )


def _image() -> Finding:
    image = current_image()
    if image is None:
        return Finding("guest image", Verdict.FAIL, "none", "build it: `sandfleet image build`")
    return Finding("guest image", Verdict.OK, f"base {image.name[:12]}")


def _template() -> Finding:
    folder = templates_dir() / "by-inputs"
    count = len(list(folder.iterdir())) if folder.is_dir() else 0
    if not count:
        return Finding(
            "template", Verdict.WARN, "none yet", "the first `sandfleet up` builds it (about 20 s)"
        )
    return Finding("template", Verdict.OK, f"{count} in {templates_dir()}")


def _cgroups() -> Finding:
    from sandfleet.adapters.qemu.cgroups import Cgroups

    groups = Cgroups.detect()
    flavour = "v2" if Path("/sys/fs/cgroup/cgroup.controllers").exists() else "v1"
    if groups.missing:
        return Finding(
            "cgroups",
            Verdict.WARN,
            f"{flavour}, without {', '.join(groups.missing)}",
            "VMs run without these limits: mount the controllers to have them",
        )
    return Finding("cgroups", Verdict.OK, f"{flavour} with memory, cpu and pids")


def _network() -> Finding:
    from sandfleet.adapters.network import nftables

    missing = [tool for tool in ("ip", "nft") if shutil.which(tool) is None]
    if missing:
        return Finding("network", Verdict.FAIL, f"{', '.join(missing)} not found", "run `make setup`")
    try:
        nftables.loaded()
    except HypervisorFailed as error:
        return Finding("network", Verdict.FAIL, error.message, "run `make setup`")
    if not Path("/dev/net/tun").exists():
        return Finding("network", Verdict.FAIL, "no /dev/net/tun", "modprobe tun, or allow the device")
    name = f"sf-doctor-{os.getpid()}"
    try:
        _run("ip", "netns", "add", name)
        _run("nsenter", f"--net=/run/netns/{name}", "nft", "list", "tables")
    except subprocess.CalledProcessError as error:
        reason = (error.stderr or "").strip() or str(error)
        return Finding("network", Verdict.FAIL, reason[:200], "namespaces and nftables need root")
    finally:
        with suppress(subprocess.SubprocessError):
            _run("ip", "netns", "delete", name)
    return Finding("network", Verdict.OK, "namespaces, nftables and tap devices")


def _firewall() -> Finding:
    from sandfleet.adapters.network.foreign_rules import LIST_CHAINS, dropping_chains, lets_machines_pass

    for chain in dropping_chains(_run(*LIST_CHAINS)):
        if not lets_machines_pass(_run(*chain.listing)):
            fact = f"table {chain.family} {chain.table} drops what is forwarded: sandboxes have no internet"
            return Finding("firewall", Verdict.WARN, fact, chain.remedy)
    return Finding("firewall", Verdict.OK, "no other table drops what sandboxes send")


def _ports(layout: Layout) -> Finding:
    state = read_state(layout)
    if state is not None and state.is_supervised:
        return Finding("ports", Verdict.OK, f"the fleet answers at {state.url}")
    if is_free(8080):
        return Finding("ports", Verdict.OK, "8080 is free")
    return Finding("ports", Verdict.WARN, "8080 is taken", "`up` takes another one and says which")


def _balancer(layout: Layout) -> Finding:
    count = len(load_configuration(layout).server_ports) if layout.configuration.exists() else 1
    if find_program() is not None:
        return Finding("load balancer", Verdict.OK, f"HAProxy is there; this fleet has {count} server(s)")
    verdict = Verdict.FAIL if count > 1 else Verdict.WARN
    return Finding(
        "load balancer",
        verdict,
        "HAProxy not found",
        "only several servers need it: `make setup` installs it",
    )


def _fleet(layout: Layout) -> Finding:
    from sandfleet.local.fleet_health import complaints

    found = complaints(layout)
    if found is None:
        return Finding("fleet", Verdict.OK, "none runs")
    if found:
        return Finding("fleet", Verdict.WARN, "; ".join(found), f"the logs are in {layout.log('*')}")
    return Finding("fleet", Verdict.OK, "it runs, and has nothing to complain about")


def _memory() -> Finding:
    total = machine.memory_total_mib()
    budget = machine.memory_budget_mib(total)
    fact = f"{total} MiB, of which sandboxes may be promised {budget} MiB"
    if total < _MEMORY_MIB_MIN:
        return Finding("memory", Verdict.FAIL, fact, f"{_MEMORY_MIB_MIN} MiB are the least")
    if total < _MEMORY_MIB_GOOD:
        return Finding("memory", Verdict.WARN, fact, "enough for a few small sandboxes")
    return Finding("memory", Verdict.OK, fact)


def _disk(subject: str, folder: Path) -> Finding:
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(existing).free // _MIB
    fact = f"{free} MiB free for {folder}"
    if free < _DISK_MIB_MIN:
        return Finding(subject, Verdict.FAIL, fact, f"{_DISK_MIB_MIN} MiB are the least")
    if free < _DISK_MIB_GOOD:
        return Finding(subject, Verdict.WARN, fact, "disks of sandboxes grow with what they write")
    return Finding(subject, Verdict.OK, fact)


def _run(*argv: str) -> str:
    return subprocess.run(argv, capture_output=True, text=True, timeout=_TOOL_TIMEOUT_S, check=True).stdout
