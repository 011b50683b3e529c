"""Real machines for tests: one template per session; ids, addresses and directory are each test's own."""

from __future__ import annotations

import asyncio
import os
import random
import secrets
import shutil
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from ipaddress import IPv4Network
from pathlib import Path

import pytest

from sandfleet.adapters.guest.virtio_guest import VirtioGuest
from sandfleet.adapters.network.namespaces import NamespaceNetwork
from sandfleet.adapters.qemu.config import HypervisorConfig, ImageFiles
from sandfleet.adapters.qemu.hypervisor import QemuHypervisor
from sandfleet.adapters.qemu.machine import QemuMachine
from sandfleet.images.build import build_image
from sandfleet.images.installed import DEFAULT_IMAGES_DIR
from sandfleet.ports.guest import ExecOrder, Guest
from sandfleet.ports.hypervisor import MachineOrder

IMAGE = "base"
ORDER = MachineOrder(IMAGE, memory_mib=512, cpu_count=1, disk_mib=20480)

Start = Callable[[MachineOrder], Awaitable[QemuMachine]]


def pytest_configure(config: pytest.Config) -> None:
    """Know our marker."""
    config.addinivalue_line("markers", "chaos: long fault runs, only with `make chaos` (`-m chaos`)")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Give guests without acceleration their time; skip where no machine can be started, with the reason."""
    if "chaos" not in (config.option.markexpr or ""):
        left_out = [item for item in items if item.get_closest_marker("chaos")]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]
    may_start = os.geteuid() == 0 and shutil.which("qemu-system-x86_64")
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.timeout(600))
            if not may_start:
                item.add_marker(pytest.mark.skip(reason="needs root and QEMU"))


@pytest.fixture(scope="session")
def image() -> ImageFiles:
    """The image of this version, built if it is not up to date."""
    images_dir = Path(os.environ.get("SANDFLEET_IMAGES_DIR", DEFAULT_IMAGES_DIR))
    found = build_image(IMAGE, images_dir=images_dir, progress=lambda _line: None)
    return ImageFiles(
        name=found.name,
        digest=found.digest,
        kernel=found.kernel,
        initrd=found.initrd,
        root_disk=found.root_disk,
        data_disk=found.data_disk,
    )


@pytest.fixture(scope="session")
def template_dir(image: ImageFiles) -> Path:
    """Where the template of `image` stands; it is found by content from run to run."""
    directory = Path(os.environ.get("SANDFLEET_TEMPLATES_DIR", "/var/cache/sandfleet/templates"))
    with short_directory() as data_dir:
        asyncio.run(_prepare(data_dir, directory, image))
    return directory


async def _prepare(data_dir: Path, directory: Path, image: ImageFiles) -> None:
    engine, network = make_hypervisor(data_dir, directory, image)
    try:
        await engine.prepare()
    finally:
        await network.withdraw()


@pytest.fixture
def data_dir() -> Iterator[Path]:
    """A directory whose name is short enough for sockets in it."""
    with short_directory() as directory:
        yield directory


@contextmanager
def short_directory() -> Iterator[Path]:
    """Hold a temporary directory with a short name."""
    path = Path(tempfile.mkdtemp(prefix="sfvm-"))
    try:
        yield path
    finally:
        shutil.rmtree(path)


async def connect_guest(socket: Path) -> Guest:
    """Open a session with an agent, as the worker does."""
    guest = VirtioGuest(socket)
    try:
        await guest.ping()
    except BaseException:
        await guest.close()
        raise
    return guest


def make_hypervisor(
    data_dir: Path, template_dir: Path, image: ImageFiles, *, memory_default_mib: int = 0
) -> tuple[QemuHypervisor, NamespaceNetwork]:
    """Return an engine on ids and addresses that no other test uses."""
    picked = random.Random(str(data_dir))
    config = HypervisorConfig(
        data_dir=data_dir,
        templates_dir=template_dir,
        uid_first=400_000 + 1000 * picked.randrange(1000),
        memory_default_mib=memory_default_mib,
    )
    address_range = IPv4Network(f"10.{picked.randrange(192, 256)}.{picked.randrange(256)}.0/24")
    network = NamespaceNetwork(tag=config.tag, address_range=address_range)
    engine = QemuHypervisor(
        config, guests=connect_guest, late_guests=VirtioGuest, network=network, images=lambda: [image]
    )
    return engine, network


@pytest.fixture
def memory_default_mib() -> int:
    """A test may say by a parameter which size, beside the least, has a template of its own."""
    return 0


@pytest.fixture
async def hypervisor(
    data_dir: Path, template_dir: Path, image: ImageFiles, memory_default_mib: int
) -> AsyncIterator[QemuHypervisor]:
    """An engine ready to clone. Whatever a test leaves behind fails it."""
    engine, network = make_hypervisor(data_dir, template_dir, image, memory_default_mib=memory_default_mib)
    await engine.prepare()
    try:
        yield engine
        assert await engine.sweep() == []
        left = [path.name for path in (data_dir / "machines").glob("*")]
        assert left == []
    finally:
        for machine in await engine.adopt():
            await machine.destroy()
        await engine.sweep()
        await network.withdraw()


@pytest.fixture
async def start(hypervisor: QemuHypervisor) -> AsyncIterator[Start]:
    """Clone machines that are destroyed when the test ends."""
    started: list[QemuMachine] = []

    async def clone(order: MachineOrder = ORDER) -> QemuMachine:
        machine = await hypervisor.clone(order)
        assert isinstance(machine, QemuMachine)
        started.append(machine)
        return machine

    yield clone
    for machine in started:
        await machine.destroy()


async def run(guest: Guest, script: str, *, user: str = "root", timeout_s: float = 60) -> tuple[int, str]:
    """Run a shell script in the guest; return its exit code and its output."""
    exec_id = f"x-{secrets.token_hex(8)}"
    argv = ["/bin/sh", "-c", script]
    await guest.start_exec(ExecOrder(exec_id, argv, user=user, timeout_s=timeout_s))
    said = b"".join([piece.data async for piece in guest.read_output(exec_id)])
    status = await guest.wait_exec(exec_id, timeout_s=timeout_s)
    return -1 if status.exit_code is None else status.exit_code, said.decode(errors="replace")
