"""Boots an image once, without acceleration, and waits for its agent to say that it is ready.

An image whose agent does not answer is never installed.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

from sandfleet.images.commands import run
from sandfleet.images.errors import ImageBuildFailed
from sandfleet.images.installed import InstalledImage

READY_LINE = "osb-agent: serving"
DEADLINE_S = 120.0
POLL_S = 0.05
MEMORY_MIB = 512
COMMAND_LINE = "console=ttyS0 quiet panic=-1 swiotlb=noforce mitigations=off"


def boot_test(image: InstalledImage, *, work: Path) -> None:
    """Return when the agent has said that it is ready; `ImageBuildFailed` with the console otherwise."""
    root, data, console = work / "boot-root.qcow2", work / "boot-data.qcow2", work / "console"
    for overlay, base in ((root, image.root_disk), (data, image.data_disk)):
        create = ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2"]
        run([*create, "-b", base.resolve(), overlay], timeout_s=30)
    argv = boot_command(image, root=root, data=data, console=console)
    with subprocess.Popen(
        argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as vm:
        try:
            _wait_ready(vm, console)
        finally:
            vm.kill()


def boot_command(image: InstalledImage, *, root: Path, data: Path, console: Path) -> list[str]:
    """Return the QEMU command that boots the image with these overlays."""
    argv = ["qemu-system-x86_64", "-M", "q35,hpet=off", "-accel", "tcg", "-cpu", "max", "-m", str(MEMORY_MIB)]
    argv += ["-nodefaults", "-display", "none", "-no-reboot", "-serial", f"file:{console}"]
    argv += ["-kernel", str(image.kernel), "-initrd", str(image.initrd), "-append", COMMAND_LINE]
    for path in (root, data):
        argv += ["-drive", f"file={path},if=virtio,format=qcow2"]
    argv += ["-device", "virtio-serial-pci", "-chardev", "null,id=agent"]
    return [*argv, "-device", "virtserialport,chardev=agent,name=sandfleet.agent.0"]


def _wait_ready(vm: subprocess.Popen[bytes], console: Path) -> None:
    for _ in range(int(DEADLINE_S / POLL_S)):
        text = console.read_text(errors="replace") if console.is_file() else ""
        if READY_LINE in text:
            return
        try:
            vm.wait(timeout=POLL_S)
        except subprocess.TimeoutExpired:
            continue
        last_words = (vm.stderr.read() if vm.stderr else b"").decode(errors="replace")
        raise ImageBuildFailed(f"the image stopped while booting:\n{last_words}{_tail(text)}")
    raise ImageBuildFailed(f"the image's agent was not ready after {DEADLINE_S:.0f} s:\n{_tail(text)}")


def _tail(text: str) -> str:
    return "\n".join(text.splitlines()[-20:])
