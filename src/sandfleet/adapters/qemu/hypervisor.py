"""The `Hypervisor` port on QEMU: what is installed, the templates made from it, the machines of this host."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import structlog

from sandfleet.adapters.clock import SystemClock
from sandfleet.adapters.fault_points import FaultPoints
from sandfleet.adapters.qemu import adopt as adopting
from sandfleet.adapters.qemu import memory, snapshot_files
from sandfleet.adapters.qemu import prune as pruning
from sandfleet.adapters.qemu import restart as restarting
from sandfleet.adapters.qemu import sweep as sweeping
from sandfleet.adapters.qemu.cgroups import Cgroups
from sandfleet.adapters.qemu.clone import clone
from sandfleet.adapters.qemu.config import GuestFactory, HypervisorConfig, ImageFiles, ImageSource
from sandfleet.adapters.qemu.erase import erase
from sandfleet.adapters.qemu.host import Host
from sandfleet.adapters.qemu.host_claim import known_data_dirs
from sandfleet.adapters.qemu.machine import QemuMachine
from sandfleet.adapters.qemu.manifest import OWNED, Manifest, ProcessIdentity, read_manifest
from sandfleet.adapters.qemu.moves import QemuMover
from sandfleet.adapters.qemu.probe import host_cpu_model, probe
from sandfleet.adapters.qemu.qemu_version import machine_type, qemu_version
from sandfleet.adapters.qemu.slots import Slots
from sandfleet.adapters.qemu.snapshots import QemuSnapshots
from sandfleet.adapters.qemu.template import Template, inputs_of
from sandfleet.adapters.qemu.template_memory import forget_orphans, forget_others
from sandfleet.adapters.qemu.template_store import find_or_build
from sandfleet.adapters.qemu.write_faults import allow_background_saves
from sandfleet.adapters.task_group import TaskGroup
from sandfleet.model.errors import HypervisorFailed, NotFound, SandfleetError, SizeOutOfRange
from sandfleet.ports.guest import Guest
from sandfleet.ports.hypervisor import Accelerator, Machine, MachineOrder, TemplateInfo
from sandfleet.ports.network import Network
from sandfleet.wire.qemu_command import MachineShape

log = structlog.get_logger(__name__)
CPU_MODELS = {"kvm": "host", "tcg": "Nehalem"}
"""Without acceleration every instruction is emulated: programs are offered the cheaper ones only."""


ADOPTIONS_AT_ONCE = 8


class _Kind(NamedTuple):
    """What tells the templates of this host apart: image, most vCPUs, memory."""

    image: str
    cpu_max: int
    memory_mib: int


class QemuHypervisor:
    """The VMs of this host. `images` is asked at each `prepare`, so that a new image is noticed."""

    def __init__(
        self,
        config: HypervisorConfig,
        *,
        guests: GuestFactory,
        late_guests: Callable[[Path], Guest],
        network: Network,
        images: ImageSource,
        faults: FaultPoints | None = None,
    ) -> None:
        taken = [manifest.slot for manifest in _manifests(config)]
        self._host = Host(
            config=config,
            network=network,
            guests=guests,
            late_guests=late_guests,
            cgroups=Cgroups.detect(),
            slots=Slots(config.machines_max, taken=taken),
            faults=faults or FaultPoints(),
        )
        self.snapshots = QemuSnapshots(self._host, self.accelerator)
        self.mover = QemuMover(self._host, self.accelerator, self.snapshots.backings)
        self.faults = self._host.faults
        self._images = images
        self._templates: dict[_Kind, Template] = {}
        self._accelerator: Accelerator | None = None
        self._held: dict[Path, int] = {}
        self._preparing = asyncio.Lock()

    @property
    def degraded(self) -> Sequence[str]:
        """What this host cannot offer, as sentences for `doctor` and the log."""
        return [
            f"cgroup controller {name} is not available: machines have no limit on it from outside"
            for name in self._host.cgroups.missing
        ] + list(self._host.degradations.values())

    async def accelerator(self) -> Accelerator:
        """Probe once by booting a guest; cached on disk by kernel, CPU and QEMU version."""
        config = self._host.config
        if self._accelerator is None:
            if config.accelerator != "auto":
                self._accelerator = Accelerator(config.accelerator, "set by the operator")
            else:
                self._accelerator = await self._probe()
        return self._accelerator

    async def prepare(self) -> Sequence[TemplateInfo]:
        """Build (or find) the template of each installed image and return them."""
        async with self._preparing:
            await self._host.network.prepare()
            reason = allow_background_saves()
            if reason is not None:
                self._host.degradations["write faults"] = f"checkpoints stop their guest: {reason}"
            first_tier = self._host.config.cpu_tiers[0]
            templates: dict[_Kind, Template] = {}
            for image in self._images():
                templates |= await self._made(image, first_tier)
            self._templates = templates
            versions = {template.version for template in templates.values()}
            await asyncio.to_thread(forget_others, self._host.config.memory_dir, versions=versions)
            await asyncio.to_thread(forget_orphans, self._host.config.resident_dir)
            for template in templates.values():
                self._hold(template)
            await asyncio.to_thread(self._prune)
            await self.snapshots.know_backings(templates.values())
            await self.snapshots.collect_bases()
        usual_mib = self._memory_sizes()[-1]
        return [_info(template) for kind, template in templates.items() if kind.memory_mib == usual_mib]

    async def clone(self, order: MachineOrder) -> Machine:
        """Start a copy-on-write clone of a template and return it with its agent answering."""
        template = await self._template_for(order)
        async with self._host.spawning:
            try:
                return await clone(self._host, template, order)
            except TimeoutError:
                limit = self._host.config.clone_timeout_s
                raise HypervisorFailed(f"a clone was not up within {limit:g} s") from None

    async def _template_for(self, order: MachineOrder) -> Template:
        tiers = [tier for tier in self._host.config.cpu_tiers if tier >= order.cpu_count]
        if not tiers:
            raise SizeOutOfRange(f"this host has no machines with {order.cpu_count} vCPUs")
        least_mib, *larger_mib = self._memory_sizes()
        fitting_mib = [least_mib, *(size for size in larger_mib if size <= order.memory_mib)]
        kind = _Kind(order.template, tiers[0], fitting_mib[-1])
        found = self._templates.get(kind)
        if found is not None:
            return found
        images = [image for image in self._images() if image.name == order.template]
        if not images:
            raise NotFound(f"this host has no template {order.template!r}", code="unknown_template")
        async with self._preparing:
            if kind not in self._templates:
                made = await self._made(images[0], kind.cpu_max)
                self._templates |= made
                for template in made.values():
                    self._hold(template)
            return self._templates[kind]

    def _memory_sizes(self) -> list[int]:
        """Return what the templates have, the size that most machines have last."""
        config = self._host.config
        return sorted({config.memory_base_mib, max(config.memory_base_mib, config.memory_default_mib)})

    async def _made(self, image: ImageFiles, cpu_max: int) -> dict[_Kind, Template]:
        """Return the templates of one image and tier, built where they are missing."""
        version = await qemu_version(self._host.config.qemu_binary)
        shape = self._shape(version, await self.accelerator(), cpu_max)
        sizes = self._memory_sizes()
        wanted = [
            inputs_of(
                image,
                shape=shape,
                memory_mib=memory.reachable(size, shape),
                qemu_version=version,
                host_cpu=host_cpu_model(),
            )
            for size in sizes
        ]
        found = await find_or_build(self._host, image, wanted)
        return {
            _Kind(image.name, cpu_max, size): template for size, template in zip(sizes, found, strict=True)
        }

    async def restart(self, machine: Machine, *, is_clean: bool) -> None:
        """Boot the machine's own disks anew."""
        if not isinstance(machine, QemuMachine):
            raise HypervisorFailed("this is no machine of this host")
        async with self._host.spawning:
            await restarting.restart(machine, self._images(), is_clean=is_clean)

    def _hold(self, template: Template) -> None:
        """Keep what clones are made from open, for as long as this process lives: so nobody prunes it."""
        for directory in (template.directory.resolve(), template.backing("root").resolve().parent):
            if directory not in self._held:
                self._held[directory] = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def _prune(self) -> None:
        """Remove templates that nothing needs any more. Another start will do what this one cannot."""
        config = self._host.config
        try:
            with pruning.no_build(config.templates_dir):
                unused = pruning.unused_templates(
                    config.templates_dir,
                    data_dirs=[config.data_dir, *known_data_dirs()],
                    now_s=SystemClock().now().timestamp(),
                )
                pruning.remove(unused)
        except (OSError, SandfleetError) as error:
            log.warning("templates_not_pruned", reason=str(error))
        else:
            for one in unused:
                log.info("template_removed", template=one.path.name)

    async def adopt(self) -> Sequence[Machine]:
        """Return the machines that run on this host from before, sessions re-established."""
        await asyncio.to_thread(snapshot_files.remove_partial, self._host.config.data_dir)
        await self._host.network.prepare()  # what is adopted is protected, and what is loaded is connected
        found = [manifest for manifest in _manifests(self._host.config) if manifest.state in OWNED]
        ended = _ended_machines(self._host.config)
        for manifest in found:
            if manifest.machine_id in ended:  # its snapshot is the sandbox: it must never run again
                await erase(self._host, manifest.machine_id, process=manifest.process, slot=manifest.slot)
        ready = [manifest for manifest in found if manifest.machine_id not in ended]
        at_once = asyncio.Semaphore(ADOPTIONS_AT_ONCE)

        async def adopt(manifest: Manifest) -> Machine:
            async with at_once:
                return await adopting.adopt_machine(self._host, manifest)

        async with TaskGroup() as together:
            adoptions = [together.create_task(adopt(manifest)) for manifest in ready]
        return [adoption.result() for adoption in adoptions]

    async def sweep(self) -> Sequence[str]:
        """Remove host resources (namespaces, cgroups, directories) that no manifest owns; name them."""
        return await sweeping.sweep(self._host)

    async def end_all(self) -> None:
        """End every machine of this host as it stands, and remove it; only for a host that nobody serves.

        One that cannot be ended keeps none of the others; HypervisorFailed names it when they are gone.
        """
        problems: list[str] = []

        async def end(machine_id: str, process: ProcessIdentity | None, slot: int | None) -> None:
            try:
                await erase(self._host, machine_id, process=process, slot=slot)
            except (SandfleetError, OSError) as error:
                problems.append(f"{machine_id}: {error}")

        async with TaskGroup() as together:
            for one in _manifests(self._host.config):
                together.create_task(end(one.machine_id, one.process, one.slot))
        if not problems:
            machines = self._host.config.machines_dir
            for directory in machines.iterdir() if machines.is_dir() else ():  # whose manifest cannot be read
                await end(directory.name, None, None)
        if problems:
            raise HypervisorFailed("; ".join(problems))
        await self.sweep()

    def _shape(self, version: str, accelerator: Accelerator, cpu_max: int) -> MachineShape:
        config = self._host.config
        return MachineShape(
            machine_type=machine_type(version),
            accelerator=accelerator.name,
            cpu_model=config.cpu_model or CPU_MODELS[accelerator.name],
            cpu_max=cpu_max,
            memory_base_mib=config.memory_base_mib,
            memory_max_mib=min(config.memory_max_mib, self._host_memory_max_mib()),
            memory_block_mib=config.memory_block_mib,
            card_announces=False,
        )

    def _host_memory_max_mib(self) -> int:
        """Return what of this host's memory a machine could have at most, in whole blocks.

        Address space that no machine can ever fill costs every machine memory for its bookkeeping.
        """
        config = self._host.config
        total_mib = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") >> 20
        blocks = max(1, (total_mib - config.memory_base_mib) // config.memory_block_mib)
        return config.memory_base_mib + blocks * config.memory_block_mib

    async def _probe(self) -> Accelerator:
        config = self._host.config
        images = self._images()
        if not images:
            return Accelerator("tcg", "no image is installed whose kernel could be tried")
        version = await qemu_version(config.qemu_binary)
        return await probe(
            config.qemu_binary,
            version,
            kernel=images[0].kernel,
            cache_dir=config.templates_dir,
            uid=config.uid_first,
        )


def _ended_machines(config: HypervisorConfig) -> set[str]:
    """Return the machines that a snapshot is the end of."""
    directories = snapshot_files.complete(config.data_dir)
    return {name for path in directories if (name := snapshot_files.ended_machine(path)) is not None}


def _info(template: Template) -> TemplateInfo:
    return TemplateInfo(
        name=template.name,
        version=template.version,
        memory_base_mib=template.shape.memory_base_mib,
        memory_block_mib=template.shape.memory_block_mib,
    )


def _manifests(config: HypervisorConfig) -> list[Manifest]:
    """Return the readable manifests of this host's machines, in a stable order."""
    found: list[Manifest] = []
    if not config.machines_dir.is_dir():
        return found
    for directory in sorted(config.machines_dir.iterdir()):
        try:
            found.append(read_manifest(directory))
        except (OSError, HypervisorFailed):
            continue
    return found
