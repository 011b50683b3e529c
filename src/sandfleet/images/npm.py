"""npm for the guest, from its own registry: Debian's package of it would bring 350 others.

The version and its digest are fixed here; the registry is the one that npm itself would use.
"""

from __future__ import annotations

import base64
import hashlib
import os
import urllib.error
import urllib.request
from pathlib import Path

from sandfleet.images.commands import run
from sandfleet.images.errors import ImageBuildFailed

VERSION = "10.9.8"
SHA512 = "fYwb6ODSmHkqrJQQaCxY3M2lPf/mpgC7ik0HSzzIwG5CGtabRp4bNqikatvCoT42b5INQSqudVH0R7yVmC9hVg=="
REGISTRY = "https://registry.npmjs.org"
TIMEOUT_S = 60.0
SIZE_MAX = 64 * 1024 * 1024


def fetch_npm() -> bytes:
    """Return npm's archive as the registry has it; `ImageBuildFailed` unless it is the expected one."""
    registry = os.environ.get("NPM_CONFIG_REGISTRY", REGISTRY).rstrip("/")
    url = f"{registry}/npm/-/npm-{VERSION}.tgz"
    if not url.startswith("https://"):
        raise ImageBuildFailed(f"npm is only fetched over https, not from {registry}")
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_S) as answer:  # noqa: S310 - https was checked
            data: bytes = answer.read(SIZE_MAX)
    except (urllib.error.URLError, OSError) as error:
        raise ImageBuildFailed(f"cannot fetch {url}: {error}") from error
    if base64.b64encode(hashlib.sha512(data).digest()).decode() != SHA512:
        raise ImageBuildFailed(f"{url} is not the npm {VERSION} that was expected")
    return data


def install_npm(archive: bytes, *, root: Path) -> None:
    """Unpack npm into a guest's root tree and link its commands."""
    modules = root / "usr/lib/node_modules"
    modules.mkdir(parents=True, exist_ok=True)
    run(["tar", "--no-same-owner", "-xz", "-C", modules], timeout_s=TIMEOUT_S, stdin=archive)
    (modules / "package").rename(modules / "npm")
    for name in ("npm", "npx"):
        script = modules / "npm/bin" / f"{name}-cli.js"
        script.chmod(0o755)
        (root / "usr/bin" / name).symlink_to(f"../lib/node_modules/npm/bin/{name}-cli.js")
