"""What an image consists of: each file with its digest, and the digest of them all.

The digest of an image covers every byte of its files and nothing else, so two
builds with equal files are one image, whatever the manifest says besides.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

from sandfleet.images.errors import ImageDamaged

FORMAT = 1
FILE_NAMES = ("vmlinuz", "initrd", "root.qcow2", "data.qcow2")


@dataclass(frozen=True, slots=True)
class FileDigest:
    """Size and SHA-256 of one file."""

    sha256: str
    size: int


@dataclass(frozen=True, slots=True)
class Manifest:
    """The description that stands beside an image's files as `manifest.json`."""

    format: int
    name: str
    digest: str
    architecture: str
    suite: str
    kernel: str
    root_size_mib: int
    data_size_mib: int
    inputs: Mapping[str, str]
    """What each part was built from, as digests: tells why two images differ."""
    files: Mapping[str, FileDigest]


def digest_of(files: Mapping[str, FileDigest]) -> str:
    """Return the digest of an image with these files: equal for equal bytes under equal names."""
    lines = "".join(f"{name} {files[name].size} {files[name].sha256}\n" for name in sorted(files))
    return hashlib.sha256(lines.encode()).hexdigest()


def encode(manifest: Manifest) -> bytes:
    """Return the manifest as the JSON that `decode` reads."""
    return msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n"


def decode(data: bytes) -> Manifest:
    """Read a manifest; `ImageDamaged` when it is not one or contradicts itself."""
    try:
        manifest = msgspec.json.decode(data, type=Manifest)
    except msgspec.MsgspecError as error:
        raise ImageDamaged(f"not an image manifest: {error}") from error
    if manifest.format != FORMAT:
        raise ImageDamaged(f"manifest format {manifest.format} is not {FORMAT}: build the image again")
    if set(manifest.files) != set(FILE_NAMES):
        raise ImageDamaged(f"an image has the files {', '.join(FILE_NAMES)}, not {', '.join(manifest.files)}")
    if digest_of(manifest.files) != manifest.digest:
        raise ImageDamaged("the manifest's digest is not that of the files it lists")
    return manifest
