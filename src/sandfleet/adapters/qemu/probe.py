"""Which accelerator this host really has: found out by booting a guest, remembered on disk.

A KVM that opens but never brings a guest to user space is a thing that exists
(nested virtualisation), so that opening the device proves nothing.
"""

from __future__ import annotations

import asyncio
import os
import platform
import tempfile
from pathlib import Path

import msgspec

from sandfleet.adapters.qemu.launch import Descriptors
from sandfleet.adapters.qemu.manifest import write_atomically
from sandfleet.adapters.qemu.probe_guest import READY_LINE, probe_initrd
from sandfleet.adapters.qemu.qemu_version import machine_type
from sandfleet.adapters.qemu.spawn import KVM_DEVICE
from sandfleet.ports.hypervisor import Accelerator
from sandfleet.wire.qemu_command import SANDBOX_OPTIONS

PROBE_TIMEOUT_S = 10.0
CACHE_FILE = "accelerator.json"
OUTPUT_MAX = 1 << 16
END_GRACE_S = 0.2


class _Cached(msgspec.Struct, frozen=True):
    """A verdict, and the circumstances that it was reached in."""

    circumstances: str
    name: str
    reason: str


def circumstances(qemu_version: str) -> str:
    """Return what a verdict depends on: kernel, CPU and QEMU."""
    return f"{platform.release()} | {host_cpu_model()} | {qemu_version}"


def host_cpu_model() -> str:
    """Return the model name of this host's CPU."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()


async def probe(binary: str, qemu_version: str, *, kernel: Path, cache_dir: Path, uid: int) -> Accelerator:
    """Return the accelerator to use, from the cache if nothing has changed since."""
    cache = cache_dir / CACHE_FILE
    now = circumstances(qemu_version)
    known = _read(cache)
    if known is not None and known.circumstances == now:
        return Accelerator(known.name, known.reason)
    verdict = await _try_kvm(binary, qemu_version, kernel, uid)
    cache_dir.mkdir(parents=True, exist_ok=True)
    content = msgspec.json.encode(_Cached(now, verdict.name, verdict.reason))
    await asyncio.to_thread(write_atomically, cache, content, durable=False)
    return verdict


async def _try_kvm(binary: str, qemu_version: str, kernel: Path, uid: int) -> Accelerator:
    if not KVM_DEVICE.exists():
        return Accelerator("tcg", f"{KVM_DEVICE} does not exist")
    try:
        os.close(os.open(KVM_DEVICE, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        return Accelerator("tcg", f"{KVM_DEVICE} cannot be opened: {error.strerror}")
    said = await _boot(binary, qemu_version, kernel, uid)
    if READY_LINE in said:
        return Accelerator("kvm", "a test guest reached user space under KVM")
    last = said.decode(errors="replace").strip().splitlines()[-1:] or ["nothing"]
    reason = (
        f"a test guest did not reach user space under KVM within {PROBE_TIMEOUT_S:g} s (it said: {last[0]})"
    )
    return Accelerator("tcg", reason)


async def _boot(binary: str, qemu_version: str, kernel: Path, uid: int) -> bytes:
    """Boot the test guest under KVM, as unprivileged as any other; return what it said in time."""
    with Descriptors() as opened, tempfile.TemporaryFile() as initrd:
        initrd.write(probe_initrd())
        initrd.flush()
        os.fchmod(initrd.fileno(), 0o444)
        kernel_fd = opened.open(kernel, os.O_RDONLY)
        kvm_fd = opened.open(KVM_DEVICE, os.O_RDWR)
        argv = ["setpriv", "--reuid", str(uid), "--regid", str(uid), "--clear-groups", "--no-new-privs"]
        argv += ["--inh-caps=-all", "--bounding-set=-all", "--", binary, "-sandbox", SANDBOX_OPTIONS]
        argv += ["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-serial", "stdio"]
        argv += ["-machine", f"{machine_type(qemu_version)},hpet=off", "-m", "256M", "-cpu", "host"]
        argv += ["-add-fd", f"fd={kvm_fd},set=1", "-accel", "kvm,device=/dev/fdset/1"]
        argv += ["-kernel", f"/proc/self/fd/{kernel_fd}", "-initrd", f"/proc/self/fd/{initrd.fileno()}"]
        argv += ["-append", "console=ttyS0 panic=-1 quiet"]
        process = await asyncio.create_subprocess_exec(
            *argv,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            pass_fds=(kernel_fd, kvm_fd, initrd.fileno()),
        )
    assert process.stdout is not None
    try:
        return await _listen(process.stdout)
    finally:
        await _end(process)


async def _end(process: asyncio.subprocess.Process) -> None:
    """Give a guest that has failed the time to end by itself; asyncio minds a signal to a dead child."""
    try:
        async with asyncio.timeout(END_GRACE_S):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()


async def _listen(console: asyncio.StreamReader) -> bytes:
    said = b""
    try:
        async with asyncio.timeout(PROBE_TIMEOUT_S):
            while READY_LINE not in said and len(said) < OUTPUT_MAX:
                more = await console.read(4096)
                if not more:
                    break
                said += more
    except TimeoutError:
        pass
    return said


def _read(cache: Path) -> _Cached | None:
    try:
        return msgspec.json.decode(cache.read_bytes(), type=_Cached)
    except (OSError, msgspec.DecodeError):
        return None
