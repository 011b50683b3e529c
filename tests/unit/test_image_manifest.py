"""Images are their bytes: digests, manifests and what a host finds installed."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from sandfleet.images.errors import ImageDamaged, ImageNotFound
from sandfleet.images.installed import (
    file_digest,
    find_image,
    list_images,
    load_image,
    verify_image,
)
from sandfleet.images.manifest import FILE_NAMES, FORMAT, FileDigest, Manifest, decode, digest_of, encode


def a_manifest(files: dict[str, FileDigest], *, name: str = "base") -> Manifest:
    return Manifest(
        format=FORMAT,
        name=name,
        digest=digest_of(files),
        architecture="x86_64",
        suite="trixie",
        kernel="6.12.0-cloud-amd64",
        root_size_mib=8192,
        data_size_mib=20480,
        inputs={"root": "r", "initrd": "i"},
        files=files,
    )


def install(images_dir: Path, *, name: str = "base", content: str = "one", current: bool = True) -> Path:
    """Put an image with small files where a build would."""
    staging = images_dir / name / "staging"
    staging.mkdir(parents=True)
    for file in FILE_NAMES:
        (staging / file).write_text(f"{content} {file}")
    manifest = a_manifest({file: file_digest(staging / file) for file in FILE_NAMES}, name=name)
    (staging / "manifest.json").write_bytes(encode(manifest))
    target = staging.rename(images_dir / name / manifest.digest)
    if current:
        (images_dir / name / "current").unlink(missing_ok=True)
        (images_dir / name / "current").symlink_to(manifest.digest)
    return target


def some_files() -> dict[str, FileDigest]:
    return {name: FileDigest(f"{number:064x}", number) for number, name in enumerate(FILE_NAMES)}


def test_manifest_survives_the_round_trip() -> None:
    manifest = a_manifest(some_files())
    assert decode(encode(manifest)) == manifest


def test_digest_covers_names_sizes_and_bytes_but_not_their_order() -> None:
    files = some_files()
    digest = digest_of(files)
    assert digest_of(dict(reversed(files.items()))) == digest
    assert digest_of({**files, "initrd": FileDigest("f" * 64, files["initrd"].size)}) != digest
    assert digest_of({**files, "initrd": dataclasses.replace(files["initrd"], size=99)}) != digest
    swapped = {**files, "initrd": files["vmlinuz"], "vmlinuz": files["initrd"]}
    assert digest_of(swapped) != digest


@pytest.mark.parametrize(
    "change",
    [
        {"digest": "0" * 64},
        {"format": FORMAT + 1},
        {"files": {"vmlinuz": FileDigest("0" * 64, 1)}},
    ],
)
def test_manifest_that_contradicts_itself_is_refused(change: dict[str, object]) -> None:
    manifest = dataclasses.replace(a_manifest(some_files()), **change)  # type: ignore[arg-type]
    with pytest.raises(ImageDamaged):
        decode(encode(manifest))


def test_what_is_no_manifest_is_refused() -> None:
    for data in (b"", b"{}", b"[1]", b'{"format": 1}'):
        with pytest.raises(ImageDamaged):
            decode(data)


def test_current_image_is_found_and_listed_first(tmp_path: Path) -> None:
    old = install(tmp_path, content="old")
    new = install(tmp_path, content="new")
    other = install(tmp_path, name="other")
    found = find_image("base", images_dir=tmp_path)
    assert (found.directory, found.is_current) == (new, True)
    assert find_image("base", images_dir=tmp_path, digest=old.name).is_current is False
    assert [image.directory for image in list_images(tmp_path)] == [new, old, other]


def test_missing_image_says_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(ImageNotFound, match="image build"):
        find_image("base", images_dir=tmp_path)
    assert list(list_images(tmp_path / "nowhere")) == []


def test_truncated_file_is_noticed_at_once(tmp_path: Path) -> None:
    target = install(tmp_path)
    (target / "root.qcow2").write_text("")
    with pytest.raises(ImageDamaged, match=r"root\.qcow2"):
        load_image(target)


def test_changed_bytes_are_noticed_by_verification(tmp_path: Path) -> None:
    target = install(tmp_path)
    image = load_image(target)
    verify_image(image)
    content = (target / "initrd").read_bytes()
    (target / "initrd").write_bytes(b"X" + content[1:])
    with pytest.raises(ImageDamaged, match="initrd"):
        verify_image(image)
