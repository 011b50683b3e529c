"""Manifests and templates on disk: whole or absent, and nothing else than what was published."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.qemu.builders import SHAPE, a_manifest

from sandfleet.adapters.qemu import template as templates
from sandfleet.adapters.qemu.config import ImageFiles
from sandfleet.adapters.qemu.manifest import (
    MANIFEST_FILE,
    ProcessIdentity,
    read_manifest,
    write_manifest,
)
from sandfleet.model.errors import HypervisorFailed
from sandfleet.wire.qemu_command import MachineShape

MANIFEST = a_manifest("abcd2345efgh", slot=3, uid=200_003, process=ProcessIdentity(12, 34, "boot"))


@given(owner=st.none() | st.text(), epoch=st.integers(0, 2**62), state=st.sampled_from(["starting", "ready"]))
def test_what_is_written_is_what_is_read(
    tmp_path_factory: pytest.TempPathFactory, owner: str | None, epoch: int, state: str
) -> None:
    directory = tmp_path_factory.mktemp("m")
    manifest = msgspec.structs.replace(MANIFEST, owner=owner, epoch=epoch, state=state)
    write_manifest(directory, manifest, durable=True)
    assert read_manifest(directory) == manifest
    assert [path.name for path in directory.iterdir()] == [MANIFEST_FILE]


def test_facts_are_those_of_the_manifest() -> None:
    facts = msgspec.structs.replace(MANIFEST, owner="sb-x", epoch=4).facts()
    assert (facts.owner, facts.epoch, facts.pid, facts.order.disk_mib) == ("sb-x", 4, 12, 20480)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"machine_id": 3}', b"\xff"])
def test_what_is_no_manifest_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    (tmp_path / MANIFEST_FILE).write_bytes(content)
    with pytest.raises(HypervisorFailed, match=MANIFEST_FILE):
        read_manifest(tmp_path)


def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    write_manifest(tmp_path, msgspec.structs.replace(MANIFEST, format=2), durable=False)
    with pytest.raises(HypervisorFailed, match="format 2"):
        read_manifest(tmp_path)


def published(directory: Path) -> templates.Template:
    """Write a small template as the build does."""
    for name in templates.DIGESTED_FILES:
        (directory / name).write_bytes(name.encode())
    (directory / "base.qcow2").write_bytes(b"base")
    image = ImageFiles("base", "digest", *[directory] * 4)
    inputs = templates.inputs_of(image, shape=SHAPE, memory_mib=512, qemu_version="10.0.2", host_cpu="cpu")
    digests = templates.file_digests(directory)
    manifest = templates.TemplateManifest(
        version=templates.template_version(inputs, digests),
        inputs=inputs,
        files=digests,
        backing={"root": str(directory / "base.qcow2")},
        data_disk_mib=20480,
    )
    (directory / templates.MANIFEST_FILE).write_bytes(msgspec.json.encode(manifest))
    return templates.Template(directory, manifest)


def test_a_template_is_loaded_as_it_was_published(tmp_path: Path) -> None:
    template = published(tmp_path)
    assert templates.load_template(tmp_path) == template
    assert templates.load_template(tmp_path).version == template.version


@pytest.mark.parametrize("is_verified_before", [False, True])
def test_a_template_with_a_changed_byte_is_refused(tmp_path: Path, *, is_verified_before: bool) -> None:
    published(tmp_path)
    if is_verified_before:
        templates.load_template(tmp_path)
    changed = tmp_path / templates.STATE_FILE
    changed.write_bytes(b"\0" * changed.stat().st_size)
    with pytest.raises(HypervisorFailed, match="changed"):
        templates.load_template(tmp_path)


def test_a_template_whose_base_is_gone_is_refused(tmp_path: Path) -> None:
    published(tmp_path)
    (tmp_path / "base.qcow2").unlink()
    with pytest.raises(HypervisorFailed, match="gone"):
        templates.load_template(tmp_path)


def test_everything_a_template_is_made_from_changes_its_key() -> None:
    image = ImageFiles("base", "digest", *[Path("/x")] * 4)
    made = templates.inputs_of(image, shape=SHAPE, memory_mib=512, qemu_version="10.0.2", host_cpu="cpu")
    others = [
        msgspec.structs.replace(made, image_digest="other"),
        msgspec.structs.replace(made, qemu_version="10.0.3"),
        msgspec.structs.replace(made, host_cpu="another"),
        msgspec.structs.replace(made, kernel_arguments="debug"),
        msgspec.structs.replace(made, memory_mib=1024),
        msgspec.structs.replace(made, shape=MachineShape("pc-q35-10.0", "tcg", "Nehalem", 4, 512, 4736, 128)),
    ]
    assert len({made.key(), *(other.key() for other in others)}) == 7
    assert json.loads(msgspec.json.encode(made))["format"] == templates.FORMAT
