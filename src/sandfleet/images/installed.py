"""Which images are installed on this host, and whether they are whole.

`<images dir>/<name>/<digest>/` holds one image, `<images dir>/<name>/current` points
to the one that new templates start from.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sandfleet.images.errors import ImageDamaged, ImageNotFound
from sandfleet.images.manifest import FileDigest, Manifest, decode

DEFAULT_IMAGES_DIR = Path("/var/cache/sandfleet/images")
DEFAULT_IMAGE_NAME = "base"


@dataclass(frozen=True, slots=True)
class InstalledImage:
    """One image on this host's disk."""

    directory: Path
    manifest: Manifest
    is_current: bool

    @property
    def name(self) -> str:
        """The name it was built under."""
        return self.manifest.name

    @property
    def digest(self) -> str:
        """The digest of all its files' bytes."""
        return self.manifest.digest

    @property
    def kernel(self) -> Path:
        """The kernel that QEMU loads."""
        return self.directory / "vmlinuz"

    @property
    def initrd(self) -> Path:
        """The first root file system: modules and the guest agent."""
        return self.directory / "initrd"

    @property
    def root_disk(self) -> Path:
        """The immutable base of every root overlay."""
        return self.directory / "root.qcow2"

    @property
    def data_disk(self) -> Path:
        """The immutable base of every data overlay: an empty, labelled file system."""
        return self.directory / "data.qcow2"

    @property
    def size_bytes(self) -> int:
        """What its files hold together."""
        return sum(file.size for file in self.manifest.files.values())


def find_image(name: str, *, images_dir: Path, digest: str | None = None) -> InstalledImage:
    """Return the current image of that name, or the one with that digest; `ImageNotFound` otherwise."""
    directory = images_dir / name / (digest or "current")
    if not (directory / "manifest.json").is_file():
        raise ImageNotFound(f"no image {name!r} in {images_dir}: run `sandfleet image build`")
    return load_image(directory.resolve())


def list_images(images_dir: Path) -> Sequence[InstalledImage]:
    """Return all installed images by name, the current one of each name first."""
    found = [
        load_image(path.parent)
        for path in sorted(images_dir.glob("[!.]*/*/manifest.json"))
        if not path.parent.is_symlink()
    ]
    return sorted(found, key=lambda image: (image.name, not image.is_current, image.digest))


def load_image(directory: Path) -> InstalledImage:
    """Read one image's manifest and check that its files are there with their sizes."""
    manifest = decode((directory / "manifest.json").read_bytes())
    for name, expected in manifest.files.items():
        path = directory / name
        if not path.is_file() or path.stat().st_size != expected.size:
            raise ImageDamaged(f"{path} is missing or has another size than its manifest says")
    current = directory.parent / "current"
    is_current = current.is_symlink() and current.resolve() == directory.resolve()
    return InstalledImage(directory, manifest, is_current)


def verify_image(image: InstalledImage) -> None:
    """Read every byte and compare with the manifest; `ImageDamaged` names the first difference."""
    for name, expected in image.manifest.files.items():
        if file_digest(image.directory / name) != expected:
            raise ImageDamaged(f"{image.directory / name} is not what its manifest says")


def file_digest(path: Path) -> FileDigest:
    """Return size and SHA-256 of a file as it stands on disk."""
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return FileDigest(sha256, path.stat().st_size)
