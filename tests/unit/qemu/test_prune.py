"""What may be removed of images and templates: never what something stands on."""

from __future__ import annotations

import asyncio
import json
import os
from contextlib import ExitStack
from pathlib import Path
from typing import cast

import msgspec
import pytest
from tests.unit.qemu.builders import SHAPE, a_manifest, a_snapshot_manifest

from sandfleet.adapters.qemu import hypervisor
from sandfleet.adapters.qemu.config import HypervisorConfig, ImageFiles
from sandfleet.adapters.qemu.hypervisor import QemuHypervisor
from sandfleet.adapters.qemu.manifest import DiskChain, write_manifest
from sandfleet.adapters.qemu.prune import (
    AGE_S_MIN,
    no_build,
    published_templates,
    remove,
    unused_images,
    unused_templates,
)
from sandfleet.adapters.qemu.template import Template, TemplateManifest, inputs_of
from sandfleet.cli.image import prune
from sandfleet.model.errors import Conflict, GuestUnresponsive, HypervisorFailed, SandfleetError
from sandfleet.ports.guest import Guest
from sandfleet.ports.network import Network

MADE_AT_S = 1_000_000.0
LATER_S = MADE_AT_S + AGE_S_MIN


class Cache:
    """Images and templates below one directory, each made at `MADE_AT_S`."""

    def __init__(self, root: Path) -> None:
        self.images, self.templates, self.data = root / "images", root / "templates", root / "data"
        for directory in (self.templates / "by-inputs", self.data / "machines", self.images / "base"):
            directory.mkdir(parents=True)

    def image(self, digest: str, *, is_current: bool = False) -> Path:
        directory = self.images / "base" / digest
        directory.mkdir()
        for name in ("manifest.json", "root.qcow2", "data.qcow2"):
            (directory / name).write_text("x")
        if is_current:
            (directory.parent / "current").unlink(missing_ok=True)
            (directory.parent / "current").symlink_to(digest)
        os.utime(directory, (MADE_AT_S, MADE_AT_S))
        return directory

    def template(self, version: str, *, image: Path) -> Path:
        directory = self.templates / version
        directory.mkdir()
        files = ImageFiles("base", image.name, *[image / "root.qcow2"] * 4)
        manifest = TemplateManifest(
            version=version,
            inputs=inputs_of(files, shape=SHAPE, memory_mib=512, qemu_version="10", host_cpu="any"),
            files={},
            backing={"root": str(image / "root.qcow2"), "data": str(image / "data.qcow2")},
            data_disk_mib=20480,
        )
        (directory / "manifest.json").write_bytes(msgspec.json.encode(manifest))
        (directory / "memory").write_text("x")
        (self.templates / "by-inputs" / f"by-{version}").symlink_to(f"../{version}")
        os.utime(directory, (MADE_AT_S, MADE_AT_S))
        return directory

    def machine(self, version: str, **changes: object) -> Path:
        directory = self.data / "machines" / f"m-{version}"
        directory.mkdir()
        manifest = a_manifest(directory.name, template_version=version, **changes)
        write_manifest(directory, manifest, durable=False)
        return directory

    def going(self, *, now_s: float = LATER_S) -> list[Path]:
        templates = [one.path for one in unused_templates(self.templates, data_dirs=[self.data], now_s=now_s)]
        staying = [path for path in published_templates(self.templates) if path not in templates]
        return [
            *templates,
            *(one.path for one in unused_images(self.images, templates=staying, now_s=now_s)),
        ]


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path)


def test_what_nothing_stands_on_goes_and_what_is_current_stays(cache: Cache) -> None:
    old, current = cache.image("old"), cache.image("new", is_current=True)
    superseded, _ = cache.template("t-old", image=old), cache.template("t-new", image=current)
    assert cache.going() == [superseded, old]
    assert cache.going(now_s=LATER_S - 1) == []
    remove(unused_templates(cache.templates, data_dirs=[cache.data], now_s=LATER_S))
    assert sorted(path.name for path in cache.templates.iterdir()) == ["by-inputs", "t-new"]
    assert [link.name for link in (cache.templates / "by-inputs").iterdir()] == ["by-t-new"]
    assert cache.going() == [old]
    remove(unused_images(cache.images, templates=published_templates(cache.templates), now_s=LATER_S))
    assert cache.going() == []
    assert (current / "root.qcow2").exists()


def test_what_a_machine_stands_on_stays_and_so_does_the_image_below(cache: Cache) -> None:
    cache.image("new", is_current=True)
    cache.template("t-old", image=cache.image("old"))
    machine = cache.machine("t-old")
    assert cache.going() == []
    (machine / "manifest.json").write_text("{")
    with pytest.raises(HypervisorFailed, match="no manifest"):
        cache.going()


def test_what_lies_below_a_disk_stays_though_its_template_has_another_name(cache: Cache) -> None:
    """Two templates of one boot have the same disks: whichever was found first lies below."""
    cache.image("new", is_current=True)
    old = cache.image("old")
    twins = [cache.template(version, image=old) for version in ("t-large", "t-small", "t-unused")]
    below = DiskChain(layers=["l"], nodes=["n"], base_node="b", backings=[str(twins[1] / "root.qcow2")])
    cache.machine("t-large", root=below)
    assert cache.going() == [twins[2]]


@pytest.mark.parametrize("name", ["", "memory"])
def test_what_a_process_has_open_stays(cache: Cache, name: str) -> None:
    cache.image("new", is_current=True)
    old = cache.image("old")
    template = cache.template("t-old", image=old)
    with ExitStack() as stack:
        handle = os.open(template / name, os.O_RDONLY)
        stack.callback(os.close, handle)
        assert cache.going() == []
    assert cache.going() == [template, old]
    with (old / "root.qcow2").open():
        assert cache.going() == [template]


def test_a_build_and_a_prune_exclude_each_other(cache: Cache) -> None:
    with (
        no_build(cache.templates),
        pytest.raises(Conflict, match="being built"),
        no_build(cache.templates),
    ):
        pytest.fail("entered")
    with no_build(cache.templates):
        pass


class _NoNetwork:
    async def prepare(self) -> None:
        """Nothing."""


async def test_what_cannot_be_ended_keeps_none_of_the_others(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended: list[str] = []

    async def ending(_: object, machine_id: str, **__: object) -> None:
        if machine_id == "m-one":
            raise HypervisorFailed("it did not end")
        await asyncio.sleep(0)
        ended.append(machine_id)

    monkeypatch.setattr(hypervisor, "erase", ending)
    for name in ("one", "two", "three"):
        cache.machine(name)
    with pytest.raises(HypervisorFailed, match="m-one: it did not end"):
        await an_engine(cache).end_all()
    assert sorted(ended) == ["m-three", "m-two"]


def an_engine(cache: Cache) -> QemuHypervisor:
    async def no_guest(_: Path) -> Guest:
        raise GuestUnresponsive("none")

    def no_late_guest(_: Path) -> Guest:
        raise GuestUnresponsive("none")

    return QemuHypervisor(
        HypervisorConfig(data_dir=cache.data, templates_dir=cache.templates),
        guests=no_guest,
        late_guests=no_late_guest,
        network=cast("Network", _NoNetwork()),
        images=list,
    )


async def test_a_worker_removes_superseded_templates_but_not_what_it_would_clone_from(cache: Cache) -> None:
    cache.image("new", is_current=True)
    superseded, held = (cache.template(name, image=cache.image(f"i-{name}")) for name in ("t-old", "t-held"))
    engine = an_engine(cache)
    content = (held / "manifest.json").read_bytes()
    engine._hold(Template(held, msgspec.json.decode(content, type=TemplateManifest)))
    assert await engine.prepare() == []
    assert not superseded.exists()
    assert held.exists()
    assert cache.images / "base" / "i-t-held" not in cache.going()


def test_the_command_says_what_goes_before_it_goes(cache: Cache, capsys: pytest.CaptureFixture[str]) -> None:
    cache.image("new", is_current=True)
    old = cache.image("old")
    template = cache.template("t-old", image=old)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SANDFLEET_IMAGES_DIR", str(cache.images))
        patch.setenv("SANDFLEET_TEMPLATES_DIR", str(cache.templates))
        patch.setenv("SANDFLEET_DATA_DIR", str(cache.data))
        prune(dry_run=True)
        said = capsys.readouterr().out.splitlines()
        assert [line.split()[:4] for line in said] == [
            ["would", "remove", "template", str(template)],
            ["would", "remove", "image", str(old)],
        ]
        assert template.exists()
        prune(as_json=True)
        removed = json.loads(capsys.readouterr().out)["removed"]
        assert [one["path"] for one in removed] == [str(template), str(old)]
        assert not template.exists()
        assert not old.exists()
        prune()
        assert capsys.readouterr() == ("", "nothing to remove\n")


def test_what_a_saved_sandbox_stands_on_stays(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    saved = cache.template("saved", image=cache.image("old"))
    gone = cache.template("gone", image=cache.image("older"))
    cache.image("new", is_current=True)
    directory = cache.data / "snapshots" / "a1b2c3d4-0000-4000-8000-000000000000"
    directory.mkdir(parents=True)
    manifest = a_snapshot_manifest(directory.name, template_version="saved", image_digest="old")
    (directory / "manifest.json").write_bytes(msgspec.json.encode(manifest))
    unused = unused_templates(cache.templates, data_dirs=[cache.data], now_s=LATER_S)
    assert [one.path for one in unused] == [gone]
    assert saved.is_dir()
    (directory / "manifest.json").write_text("{")
    with pytest.raises(SandfleetError):
        unused_templates(cache.templates, data_dirs=[cache.data], now_s=LATER_S)
