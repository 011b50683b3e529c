"""Where the memory of templates lies: in nobody else's place, and not longer than somebody clones it."""

from __future__ import annotations

import fcntl
import os
import shutil
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from sandfleet.adapters.qemu.template import Template
from sandfleet.adapters.qemu.template_memory import forget_orphans, forget_others, resident_memory


class Places:
    """A directory of templates, and one in a memory file system."""

    def __init__(self, root: Path) -> None:
        self.templates = root / "templates"
        self.resident = root / "shm" / "sandfleet-templates"
        self.memory = self.resident / "of-these"
        self.resident.parent.mkdir()
        self.resident.parent.chmod(0o1777)

    def template(self, version: str) -> Template:
        directory = self.templates / version
        directory.mkdir(parents=True)
        (directory / "memory").write_bytes(b"pages of " + version.encode())
        return cast("Template", SimpleNamespace(version=version, file=lambda name: directory / name))


@pytest.fixture
def places(tmp_path: Path) -> Places:
    return Places(tmp_path)


async def test_a_copy_is_made_once_and_goes_when_another_template_is_current(places: Places) -> None:
    old, new = places.template("old"), places.template("new")
    for template in (old, new, old):
        found, reason = await resident_memory(places.memory, template)
        assert (found.parent, reason) == (places.memory, None)
        assert found.read_bytes() == template.file("memory").read_bytes()
    (places.memory / ".old.whole-1234").write_bytes(b"of a process that died")
    forget_others(places.memory, versions=["new"])
    assert sorted(path.name for path in places.memory.iterdir()) == [".of", "new.whole"]


@pytest.mark.parametrize("where", ["resident", "memory"])
@pytest.mark.parametrize("how", ["others may write", "another's", "elsewhere"])
async def test_what_others_could_have_put_there_runs_in_no_guest(
    places: Places, where: str, how: str, tmp_path: Path
) -> None:
    template = places.template("one")
    directory = places.resident if where == "resident" else places.memory
    directory.parent.mkdir(exist_ok=True)
    if how == "elsewhere":
        (tmp_path / "else").mkdir()
        directory.symlink_to(tmp_path / "else")
    else:
        directory.mkdir()
    if how == "others may write":
        directory.chmod(0o777)
    if how == "another's":
        if os.geteuid() != 0:
            pytest.skip("only root can give a directory away")
        os.chown(directory, 65534, 65534)
    places.memory.mkdir(exist_ok=True)
    (places.memory / "one.whole").write_bytes(b"poison")
    found, reason = await resident_memory(places.memory, template)
    assert found == template.file("memory")
    assert reason is not None
    assert "others may write" in reason


async def test_what_is_being_copied_is_left_alone(places: Places) -> None:
    await resident_memory(places.memory, places.template("one"))
    fresh = places.memory / ".two.whole-1234"
    fresh.write_bytes(b"half")
    with ExitStack() as stack:
        writer = os.open(places.memory, os.O_RDONLY)
        stack.callback(os.close, writer)
        fcntl.flock(writer, fcntl.LOCK_SH)
        forget_others(places.memory, versions=["one"])
        assert fresh.exists()
    forget_others(places.memory, versions=["one"])
    assert not fresh.exists()


async def test_the_memory_of_templates_that_are_gone_goes_too(places: Places, tmp_path: Path) -> None:
    others = Places.__new__(Places)
    others.templates, others.memory = tmp_path / "others", places.resident / "of-others"
    await resident_memory(places.memory, places.template("one"))
    await resident_memory(others.memory, others.template("one"))
    strange = places.resident / "strange"
    strange.mkdir()
    forget_orphans(places.resident)
    assert others.memory.exists()
    shutil.rmtree(others.templates)
    forget_orphans(places.resident)
    assert sorted(path.name for path in places.resident.iterdir()) == ["of-these", "strange"]
