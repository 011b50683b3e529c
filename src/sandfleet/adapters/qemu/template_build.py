"""Making templates: boot the image, warm it up, quiesce it, save it, prove it with one clone, publish it.

Templates of one image that differ in nothing but their memory come from one boot: the guest is saved with
what it has, given more, and saved again.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
from collections.abc import Awaitable, Sequence
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import TypeVar

import msgspec
import structlog

from sandfleet.adapters.clock import SystemClock
from sandfleet.adapters.processes import run_program
from sandfleet.adapters.qemu import disks, memory
from sandfleet.adapters.qemu.clone import IGNORE_SHARED, clone, seat
from sandfleet.adapters.qemu.config import AGENT_SOCKET, QMP_SOCKET, ImageFiles
from sandfleet.adapters.qemu.erase import end_process
from sandfleet.adapters.qemu.host import Host, limits
from sandfleet.adapters.qemu.launch import log_tail
from sandfleet.adapters.qemu.manifest import Manifest, sync_directory, write_atomically
from sandfleet.adapters.qemu.process import ProcessHandle
from sandfleet.adapters.qemu.qmp import Qmp, next_event, set_capabilities
from sandfleet.adapters.qemu.spawn import KernelFiles, Spawned, SpawnRecipe, spawn
from sandfleet.adapters.qemu.standstill import thaw
from sandfleet.adapters.qemu.template import (
    DATA_EMPTY_FILE,
    DATA_FILE,
    DIGESTED_FILES,
    MANIFEST_FILE,
    MEMORY_FILE,
    ROOT_EMPTY_FILE,
    ROOT_FILE,
    STATE_FILE,
    Template,
    TemplateInputs,
    TemplateManifest,
    file_digests,
    load_template,
    template_version,
)
from sandfleet.model.errors import BadRequest, ExecFailed, GuestUnresponsive, HypervisorFailed
from sandfleet.ports.guest import ExecOrder, Guest, GuestIdentity
from sandfleet.ports.hypervisor import MachineOrder
from sandfleet.wire.agent_messages import WARM_EXEC_PREFIX
from sandfleet.wire.qemu_command import CONSOLE_CHARDEV, MachineShape

log = structlog.get_logger("sandfleet.engine")
_T = TypeVar("_T")

SAVE_TIMEOUT_S = 60.0
WARM_UP_TIMEOUT_S = 180.0
"""A guest on a host that is busy with others needs minutes where an idle one needs a second."""
ANSWER_S = 10.0
PLUG_ATTEMPTS = 10
BOOTS_MAX = 3
CLOCK_WATCHED_S = 1.0
CLOCK_TOLERANCE = 0.1
MEMORY_HEADROOM_MIB = 128
PIDS_MAX = 1024
"""Until a clone is given its own."""
BUILDING_PREFIX = ".building-"
_COMMON = "bash cat cp env find grep head id ls mkdir mv ps rm sed sleep sort tail true uname wc"
WARM_UPS: Sequence[Sequence[str]] = (
    ("sh", "-c", "true"),
    ("python3", "-c", "import json, subprocess, socket"),
    ("node", "-e", "0"),
    ("sh", "-c", "ls / >/dev/null; cat /etc/os-release >/dev/null"),
    # A clone's first command would read its program from the disk, and run all that takes for the first time.
    ("sh", "-c", f"cd /usr/bin && cat {_COMMON} >/dev/null 2>&1"),
)
"""Run once before the save, so that their pages are in memory that all clones share."""
USES = 8
REHEARSED_NAME = "sandbox"
"""Not longer than a sandbox's: a file that becomes shorter costs more."""
SEED_BYTES = 64
DATA_MOUNTED = ("mountpoint", "-q", "/home/sandbox")


async def build_templates(
    host: Host, image: ImageFiles, wanted: Sequence[TemplateInputs]
) -> Sequence[Template]:
    """Return new, proven and published templates of `image` out of one boot.

    They differ in their memory alone, of which each has more than the one before.
    """
    for _ in range(BOOTS_MAX - 1):
        try:
            return await _build(host, image, wanted)
        except WrongClock as error:
            log.warning("template_booted_anew", reason=error.message)
    return await _build(host, image, wanted)


async def _build(host: Host, image: ImageFiles, wanted: Sequence[TemplateInputs]) -> Sequence[Template]:
    stagings = [host.config.templates_dir / f"{BUILDING_PREFIX}{secrets.token_hex(6)}" for _ in wanted]
    try:
        for staging in stagings:
            staging.mkdir(parents=True, mode=0o755)
        await _save_booted(host, image, list(zip(wanted, stagings, strict=True)))
        templates = []
        for inputs, staging in zip(wanted, stagings, strict=True):
            template = await _describe(host, image, inputs, staging)
            await _prove(host, template)
            templates.append(await asyncio.to_thread(_publish, host.config.templates_dir, template))
        return templates
    finally:
        for staging in stagings:
            await asyncio.to_thread(shutil.rmtree, staging, ignore_errors=True)


async def _save_booted(host: Host, image: ImageFiles, parts: Sequence[tuple[TemplateInputs, Path]]) -> None:
    """Boot a guest on the files of the last part, and save it into each."""
    inputs, staging = parts[-1]
    order = MachineOrder(image.name, inputs.shape.memory_base_mib, 1, 0, network_enabled=False)
    async with AsyncExitStack() as undo:
        manifest = seat(host, undo, order, template_version="", shape=inputs.shape)
        tool = host.config.image_tool
        await disks.create_overlay(tool, staging / ROOT_FILE, backing=image.root_disk)
        await disks.create_overlay(tool, staging / DATA_FILE, backing=image.data_disk)
        _create_memory(staging / MEMORY_FILE, size=inputs.shape.memory_base_mib << 20, uid=manifest.uid)
        recipe = SpawnRecipe(
            shape=inputs.shape,
            memory=staging / MEMORY_FILE,
            state=staging / STATE_FILE,
            root=[staging / ROOT_FILE, image.root_disk],
            data=[staging / DATA_FILE, image.data_disk],
            limits=limits(memory_mib=inputs.memory_mib + MEMORY_HEADROOM_MIB, cpu_count=2),
            kernel=KernelFiles(image.kernel, image.initrd, inputs.kernel_arguments),
        )
        spawned = await spawn(host, manifest, recipe)
        undo.push_async_callback(end_process, spawned.process)
        qmp, guest = await _boot(host, undo, manifest, spawned)
        for earlier, its_staging in parts[:-1]:
            await _settle(qmp, guest, earlier)
            await _or_log(
                _save_copy(qmp, working=staging, saved=its_staging), host.directory(manifest.machine_id)
            )
            guest = await host.guests(host.directory(manifest.machine_id) / AGENT_SOCKET)
            undo.push_async_callback(guest.close)
        await _settle(qmp, guest, inputs)
        await _or_log(save(qmp, spawned.state_path), host.directory(manifest.machine_id))


async def _boot(host: Host, undo: AsyncExitStack, manifest: Manifest, spawned: Spawned) -> tuple[Qmp, Guest]:
    """Return the sessions with a guest that has booted and run once what its clones will run."""
    directory = host.directory(manifest.machine_id)
    handle = ProcessHandle(spawned.process)
    undo.callback(handle.close)
    qmp = await _or_log(Qmp.connect(directory / QMP_SOCKET), directory)
    undo.push_async_callback(qmp.close)
    try:
        async with asyncio.timeout(host.config.template_build_timeout_s):
            guest = await _first_answer(host, directory / AGENT_SOCKET, handle)
    except (TimeoutError, GuestUnresponsive) as error:
        said = await _console(qmp)
        raise HypervisorFailed(
            f"the image {manifest.template} did not boot to an answering agent: {said} {log_tail(directory)}"
        ) from error
    undo.push_async_callback(guest.close)
    await warm_up(guest, WARM_UPS)
    if await _run(guest, DATA_MOUNTED) != 0:
        raise HypervisorFailed(
            f"the guest did not mount its data disk, as every clone would have to: {await _console(qmp)}"
        )
    await require_true_clock(guest)
    return qmp, guest


class WrongClock(HypervisorFailed):
    """A guest's clock has another rate than its host's."""


async def require_true_clock(guest: Guest) -> None:
    """Raise WrongClock unless the guest's time passes as its host's does.

    A kernel that boots while its host is too busy may measure the rate wrongly, some times over:
    in every clone all time-outs would be over too soon.
    """
    now = asyncio.get_running_loop().time
    asked_s, first_s, known_s = now(), (await guest.stats()).uptime_s, now()
    await asyncio.sleep(CLOCK_WATCHED_S)
    asked_again_s, second_s, known_again_s = now(), (await guest.stats()).uptime_s, now()
    least_s = (asked_again_s - known_s) * (1 - CLOCK_TOLERANCE)
    most_s = (known_again_s - asked_s) * (1 + CLOCK_TOLERANCE)
    if not least_s <= second_s - first_s <= most_s:
        raise WrongClock(
            f"the new guest's clock went on by {second_s - first_s:.2f} s in {least_s:.2f} to {most_s:.2f} s"
        )


async def _settle(qmp: Qmp, guest: Guest, inputs: TemplateInputs) -> None:
    """Give the guest the memory of a template and make it ready to be saved; its session ends."""
    await _plug(qmp, guest, inputs.shape, inputs.memory_mib)
    await _use(guest, inputs.shape)
    await guest.quiesce()
    await guest.close()


async def _save_copy(qmp: Qmp, *, working: Path, saved: Path) -> None:
    """Save the guest into `saved` while it stands on the files in `working`, and let it run on."""
    descriptor = os.open(saved / STATE_FILE, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        path = await qmp.give(descriptor)
    finally:
        os.close(descriptor)
    await save(qmp, path)
    for name in (MEMORY_FILE, ROOT_FILE, DATA_FILE):
        copying = ["cp", "--sparse=always", str(working / name), str(saved / name)]
        await run_program(copying, timeout_s=SAVE_TIMEOUT_S)
    await qmp.take_back(path)
    await thaw(qmp)


async def _first_answer(host: Host, socket: Path, handle: ProcessHandle) -> Guest:
    """Return a session once the booting guest's agent answers; the caller bounds the wait."""
    while True:
        if handle.has_ended():
            raise GuestUnresponsive("QEMU ended while its guest was booting")
        try:
            return await host.guests(socket)
        except GuestUnresponsive:
            await asyncio.sleep(0.1)


async def save(qmp: Qmp, state_path: str) -> None:
    """Save the device state of a running guest whose memory is a shared file, and leave it stopped."""
    await set_capabilities(qmp, [IGNORE_SHARED, "events"])
    with qmp.listen("MIGRATION") as moves:
        await qmp.execute("migrate", {"uri": f"file:{state_path}"})
        while True:
            event = await next_event(moves, timeout_s=SAVE_TIMEOUT_S, awaited="that the state is saved")
            status = str(dict(event["data"]).get("status"))  # type: ignore[call-overload]
            if status == "completed":
                return
            if status in ("failed", "cancelled"):
                described = await qmp.execute("query-migrate")
                raise HypervisorFailed(
                    f"QEMU could not save its guest: {described.get('error-desc', status)}"
                )


async def _describe(host: Host, image: ImageFiles, inputs: TemplateInputs, staging: Path) -> Template:
    """Freeze the files in `staging` and write what they are."""
    tool = host.config.image_tool
    await asyncio.to_thread(_freeze, staging)
    digests = await asyncio.to_thread(file_digests, staging)
    version = template_version(inputs, digests)
    final = host.config.templates_dir / version
    root_size = await disks.virtual_size(tool, staging / ROOT_FILE)
    data_size = await disks.virtual_size(tool, image.data_disk)
    root_empty, data_empty = staging / ROOT_EMPTY_FILE, staging / DATA_EMPTY_FILE
    await disks.create_overlay(tool, root_empty, backing=final / ROOT_FILE, size_bytes=root_size)
    await disks.create_overlay(tool, data_empty, backing=final / DATA_FILE, size_bytes=data_size)
    manifest = TemplateManifest(
        version=version,
        inputs=inputs,
        files=digests,
        backing={"root": str(image.root_disk), "data": str(image.data_disk)},
        data_disk_mib=data_size >> 20,
    )
    write_atomically(staging / MANIFEST_FILE, msgspec.json.encode(manifest), durable=True)
    return Template(staging, manifest)


async def _prove(host: Host, template: Template) -> None:
    """Start one clone and run a command in it: what cannot do that is not published."""
    order = MachineOrder(template.name, template.memory_mib, 1, 0, network_enabled=False)
    machine = await clone(host, template, order)
    try:
        status = await _run(machine.guest, ("sh", "-c", "exit 7"))
        if status != 7:
            raise HypervisorFailed(f"a clone of the new template answered {status} where 7 was right")
    finally:
        await machine.destroy()


def _publish(templates_dir: Path, template: Template) -> Template:
    final = templates_dir / template.version
    if not final.exists():
        sync_directory(template.directory)
        template.directory.rename(final)
    link = templates_dir / "by-inputs" / template.manifest.inputs.key()
    link.parent.mkdir(exist_ok=True)
    fresh = link.with_name(f".{link.name}-{secrets.token_hex(4)}")
    fresh.symlink_to(Path("..") / template.version)
    fresh.replace(link)
    sync_directory(link.parent)
    sync_directory(templates_dir)
    return load_template(final)


def _create_memory(path: Path, *, size: int, uid: int) -> None:
    with open(path, "xb") as file:
        os.fchmod(file.fileno(), 0o600)
        os.fchown(file.fileno(), uid, uid)
        os.ftruncate(file.fileno(), size)


def _freeze(staging: Path) -> None:
    for name in DIGESTED_FILES:
        path = staging / name
        os.chown(path, 0, 0)
        path.chmod(0o444)
        with open(path, "rb") as file:
            os.fsync(file.fileno())


async def warm_up(
    guest: Guest, commands: Sequence[Sequence[str]], *, timeout_s: float = WARM_UP_TIMEOUT_S
) -> None:
    """Run each to its end. A template saved before that would make each of its clones go on with it."""
    for argv in commands:
        await _run(guest, argv, timeout_s=timeout_s)


async def _run(guest: Guest, argv: Sequence[str], *, timeout_s: float = WARM_UP_TIMEOUT_S) -> int | None:
    """Run one command as root; a program that the image lacks is nobody's fault here."""
    order = ExecOrder(
        exec_id=f"{WARM_EXEC_PREFIX}{secrets.token_hex(8)}",
        argv=argv,
        user="root",
        timeout_s=timeout_s,
    )
    try:
        await guest.start_exec(order)
    except ExecFailed:
        return None
    # The guest ends it at its time limit: its answer is waited for a little longer than that.
    status = await guest.wait_exec(order.exec_id, timeout_s=timeout_s + ANSWER_S)
    if status.running or status.timed_out:
        raise HypervisorFailed(f"{' '.join(argv)!r} had not ended in the new guest after {timeout_s:g} s")
    return status.exit_code


async def _plug(qmp: Qmp, guest: Guest, shape: MachineShape, memory_mib: int) -> None:
    """Give the guest the memory that its clones will have.

    Last, so that hardly anything lies in it: it is saved with the devices, and is each clone's own.
    """
    for _ in range(PLUG_ATTEMPTS):
        reached = await memory.resize(qmp, shape, memory_mib)
        usable = await memory.online(guest, shape, reached)
        if usable == memory_mib:
            return
    raise HypervisorFailed(f"the new guest has {usable} of {memory_mib} MiB")


async def _use(guest: Guest, shape: MachineShape) -> None:
    """Let the agent do what it does in clones: it is here that files are read and code is patched.

    Python writes its code anew in the first few times that it runs, which no clone should have to.
    """
    for _ in range(USES):
        await guest.ping()
        await guest.stats()
        await guest.memory_total(at_least=0, wait_s=0)
        await guest.set_limits(memory_mib=shape.memory_base_mib, cpu_percent=100, pids_max=PIDS_MAX)
        with suppress(BadRequest):  # an agent of before it could be asked
            now = SystemClock().now().timestamp()
            await guest.rehearse(GuestIdentity(REHEARSED_NAME, secrets.token_bytes(SEED_BYTES), now))


async def _console(qmp: Qmp) -> str:
    try:
        text = await qmp.execute("ringbuf-read", {"device": CONSOLE_CHARDEV, "size": 2000})
    except HypervisorFailed:
        return ""
    return str(text).strip()


async def _or_log(step: Awaitable[_T], directory: Path) -> _T:
    """Return what `step` does; when it fails, say what QEMU said as well."""
    try:
        return await step
    except HypervisorFailed as error:
        raise HypervisorFailed(f"{error.message} {log_tail(directory)}".strip()) from error
