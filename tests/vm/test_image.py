"""The installed image, booted for real: what a guest offers to people, and what it keeps from them."""

from __future__ import annotations

import asyncio
import hashlib
import os
import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio

from sandfleet.images import build
from sandfleet.images.boot_test import booted, identity
from sandfleet.images.errors import ImageBuildFailed
from sandfleet.images.installed import DEFAULT_IMAGES_DIR, InstalledImage, find_image, verify_image
from sandfleet.ports.guest import ExecOrder, Guest

IMAGES_DIR = Path(os.environ.get("SANDFLEET_IMAGES_DIR", DEFAULT_IMAGES_DIR))

pytestmark = pytest.mark.asyncio(loop_scope="module")


@dataclass(frozen=True)
class Shell:
    """Runs commands in the guest as its user."""

    guest: Guest

    async def __call__(self, script: str, *, user: str = "sandbox") -> str:
        exec_id = secrets.token_hex(8)
        order = ExecOrder(exec_id=exec_id, argv=["bash", "-c", script], timeout_s=240, user=user)
        await self.guest.start_exec(order)
        said = b"".join([output.data async for output in self.guest.read_output(exec_id)]).decode()
        status = await self.guest.wait_exec(exec_id)
        assert status.exit_code == 0, f"{script}: exit code {status.exit_code}, said {said}"
        return said.strip()


@pytest.fixture(scope="module")
def image() -> InstalledImage:
    return find_image("base", images_dir=IMAGES_DIR)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shell(image: InstalledImage) -> AsyncIterator[Shell]:
    async with booted(image) as guest:
        await guest.assume_identity(identity())
        yield Shell(guest)


async def test_every_byte_is_what_the_manifest_says(image: InstalledImage) -> None:
    verify_image(image)
    assert image.directory.name == image.digest
    assert all(path.stat().st_mode & 0o222 == 0 for path in image.directory.iterdir())


async def test_the_user_and_what_is_theirs(shell: Shell) -> None:
    assert await shell("id -un; id -u; pwd; echo $HOME") == "sandbox\n1000\n/home/sandbox\n/home/sandbox"
    assert await shell("sudo -n id -u") == "0"
    assert await shell("stat -c '%U %a' /home/sandbox /workspace") == "sandbox 755\nsandbox 755"
    assert "alias" in await shell("cat ~/.bashrc")


async def test_the_data_disk_holds_what_must_last(shell: Shell) -> None:
    devices = await shell("stat -c %d /home/sandbox /workspace /var/cache/apt/archives | sort -u | wc -l")
    assert devices == "1"
    assert await shell("stat -c %d /") != await shell("stat -c %d /workspace")
    size_mib = int(await shell("df -m --output=size /home/sandbox | tail -1"))
    assert 0.95 * 20480 < size_mib <= 20480
    assert 7800 < int(await shell("df -m --output=size / | tail -1")) <= 8192


async def test_languages_and_their_package_managers_run(shell: Shell) -> None:
    assert int((await shell("node --version")).lstrip("v").partition(".")[0]) >= 20
    assert int((await shell("npm --version")).partition(".")[0]) >= 10
    assert await shell("python3 -c 'import sqlite3, http.server, venv; print(1)'") == "1"
    assert "externally-managed" not in await shell(
        "python3 -m pip install --no-index nothing-here 2>&1 || true"
    )
    assert await shell("echo 'int main(){return 0;}' > t.c && gcc t.c -o t && ./t && echo built") == "built"
    assert await shell("printf 'all:\\n\\t@echo made\\n' | make -f -") == "made"


async def test_tools_are_there(shell: Shell) -> None:
    tools = "bash sudo apt git jq curl nslookup host ps pgrep pkill free tar dd ip iptables sqlite3 unzip"
    assert await shell(f"for t in {tools}; do command -v $t > /dev/null || echo $t; done") == ""
    assert await shell("locale charmap") == "UTF-8"


async def test_container_engines_have_their_kernel_modules(shell: Shell) -> None:
    await shell("sudo modprobe -a overlay bridge veth br_netfilter && sudo iptables -L > /dev/null")


async def test_the_agent_is_visible_and_out_of_reach(shell: Shell) -> None:
    assert "osb-agent" in await shell("ps aux | awk '$2 == 1'")
    assert await shell("pgrep -x osb-agent | head -1") == "1"
    assert await shell("cat /proc/1/cgroup") == "0::/" or "sandbox" not in await shell("cat /proc/1/cgroup")
    assert "/sandbox/" in await shell("cat /proc/self/cgroup")
    await shell("sudo kill -9 1; sudo kill -9 1; true")
    await shell.guest.ping()


async def test_plugged_memory_stays_movable(shell: Shell) -> None:
    assert await shell("cat /sys/devices/system/memory/auto_online_blocks") == "online_movable"


async def test_image_holds_no_identity_and_no_leftovers(image: InstalledImage) -> None:
    async with booted(image) as guest:
        shell = Shell(guest)
        assert await shell("cat /etc/machine-id", user="root") == ""
        assert await shell("ls /etc/ssh | grep host_key || true", user="root") == ""
        assert await shell("ls /var/lib/apt/lists | grep -v -e partial -e lock || true", user="root") == ""
        assert (
            await shell("ls /var/cache/apt/archives | grep -v -e partial -e lock || true", user="root") == ""
        )
        assert await shell("cat /etc/resolv.conf", user="root") == "nameserver 10.0.2.2"
        assert "@" not in await shell("cat /etc/apt/sources.list", user="root")


async def test_second_build_finds_everything_done(image: InstalledImage) -> None:
    lines: list[str] = []
    before = hashlib.sha256(image.initrd.read_bytes()).hexdigest()
    again = await asyncio.to_thread(build.build_image, "base", images_dir=IMAGES_DIR, progress=lines.append)
    assert again.digest == image.digest, f"the image is not of this source tree: {lines}"
    assert lines == [f"image base {image.digest[:12]} is up to date"]
    assert hashlib.sha256(again.initrd.read_bytes()).hexdigest() == before


async def test_image_that_does_not_come_up_is_refused(image: InstalledImage, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    for path in image.directory.iterdir():
        (broken / path.name).symlink_to(path)
    (broken / "initrd").unlink()
    (broken / "initrd").write_bytes(b"")
    with pytest.raises(ImageBuildFailed, match="while the guest booted"):
        async with booted(InstalledImage(broken, image.manifest, is_current=False)):
            pytest.fail("a guest without an initrd answered")
