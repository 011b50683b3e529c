"""Boots an image once, without acceleration, and lets its agent check that the guest is what it should be.

An image whose agent does not answer, or that lacks a part of the guest environment, is never installed.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import tempfile
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from sandfleet.adapters.clock import SystemClock
from sandfleet.adapters.guest.calls import GuestBounds
from sandfleet.adapters.guest.virtio_guest import VirtioGuest
from sandfleet.adapters.task_group import TaskGroup
from sandfleet.images.commands import run
from sandfleet.images.errors import ImageBuildFailed
from sandfleet.images.installed import InstalledImage
from sandfleet.model.errors import SandfleetError
from sandfleet.ports.guest import ExecOrder, Guest, GuestIdentity

DEADLINE_S = 180.0
MEMORY_MIB = 512
COMMAND_LINE = "console=ttyS0 quiet panic=-1 swiotlb=noforce mitigations=off"
BOUNDS = GuestBounds(connect_s=2.0, reconnect_s=DEADLINE_S)


@dataclass(frozen=True, slots=True)
class BootRoom:
    """The files of one booted guest, in a directory whose path is short enough for a socket."""

    directory: Path

    @property
    def disks(self) -> Sequence[Path]:
        """The overlays of the root and the data disk."""
        return (self.directory / "root.qcow2", self.directory / "data.qcow2")

    @property
    def socket(self) -> Path:
        """Where the agent's channel is."""
        return self.directory / "agent"

    @property
    def console(self) -> Path:
        """What the guest wrote on its console."""
        return self.directory / "console"


def boot_test(image: InstalledImage) -> None:
    """Return when the image has booted and is whole; `ImageBuildFailed` with the reason otherwise. Blocks."""
    try:
        asyncio.run(_boot_and_check(image))
    except TimeoutError as error:
        raise ImageBuildFailed(f"the image was not up and checked after {DEADLINE_S:.0f} s") from error


@contextlib.asynccontextmanager
async def booted(image: InstalledImage) -> AsyncIterator[Guest]:
    """Boot the image on overlays of its own and yield its agent; everything is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="sandfleet-boot-") as directory:
        room = BootRoom(Path(directory))
        for overlay, base in zip(room.disks, (image.root_disk, image.data_disk), strict=True):
            create = ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2"]
            run([*create, "-b", base.resolve(), overlay], timeout_s=30)
        with (room.directory / "qemu.log").open("wb") as log:
            vm = await asyncio.create_subprocess_exec(*boot_command(image, room), stdout=log, stderr=log)
        try:
            async with VirtioGuest(room.socket, bounds=BOUNDS) as guest:
                await _answer(guest, vm)
                yield guest
        except SandfleetError as error:
            raise ImageBuildFailed(f"{error.message}\n{_last_words(room)}") from error
        finally:
            with contextlib.suppress(ProcessLookupError):
                vm.kill()
            await vm.wait()


def boot_command(image: InstalledImage, room: BootRoom) -> list[str]:
    """Return the QEMU command that boots the image in `room`."""
    argv = ["qemu-system-x86_64", "-M", "q35,hpet=off", "-accel", "tcg", "-cpu", "max", "-m", str(MEMORY_MIB)]
    argv += ["-nodefaults", "-display", "none", "-no-reboot", "-serial", f"file:{room.console}"]
    argv += ["-kernel", str(image.kernel), "-initrd", str(image.initrd), "-append", COMMAND_LINE]
    for path in room.disks:
        argv += ["-drive", f"file={path},if=virtio,format=qcow2"]
    argv += [
        "-device",
        "virtio-serial-pci",
        "-chardev",
        f"socket,id=agent,path={room.socket},server=on,wait=off",
    ]
    return [*argv, "-device", "virtserialport,chardev=agent,name=sandfleet.agent.0"]


def identity() -> GuestIdentity:
    """Return an identity for a guest that nobody but the build and the tests will meet."""
    wall_clock_s = SystemClock().now().timestamp()
    return GuestIdentity(host_name="boot-test", seed=os.urandom(64), wall_clock_s=wall_clock_s)


async def _boot_and_check(image: InstalledImage) -> None:
    script = (Path(__file__).parent / "guest" / "check.sh").read_text()
    async with asyncio.timeout(DEADLINE_S), booted(image) as guest:
        await guest.assume_identity(identity())
        order = ExecOrder(exec_id="check", argv=["bash", "-c", script], timeout_s=DEADLINE_S)
        await guest.start_exec(order)
        said = b"".join([output.data async for output in guest.read_output("check")])
        status = await guest.wait_exec("check")
    if status.exit_code != 0:
        raise ImageBuildFailed(f"the guest is not whole:\n{said.decode(errors='replace')}")


async def _answer(guest: Guest, vm: asyncio.subprocess.Process) -> None:
    """Return when the agent has answered; a VM that ends before is an error at once."""
    async with TaskGroup() as tasks:
        ended = tasks.create_task(vm.wait())
        answered = tasks.create_task(guest.ping())
        await asyncio.wait((ended, answered), return_when=asyncio.FIRST_COMPLETED)
        has_ended = ended.done()
        ended.cancel()
        answered.cancel()
    if has_ended:
        raise ImageBuildFailed(f"QEMU ended with exit code {vm.returncode} while the guest booted")


def _last_words(room: BootRoom) -> str:
    texts = [
        path.read_text(errors="replace")
        for path in (room.directory / "qemu.log", room.console)
        if path.is_file()
    ]
    return "\n".join("".join(texts).splitlines()[-20:])
