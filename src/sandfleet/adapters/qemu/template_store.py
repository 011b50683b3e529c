"""Finding the template of an image, or making it, once however many workers ask at a time."""

from __future__ import annotations

import asyncio
import fcntl
import os
import shutil
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from sandfleet.adapters.qemu.config import ImageFiles
from sandfleet.adapters.qemu.host import Host
from sandfleet.adapters.qemu.template import Template, TemplateInputs, load_template
from sandfleet.adapters.qemu.template_build import BUILDING_PREFIX, build_templates
from sandfleet.model.errors import HypervisorFailed

LOCK_POLL_S = 0.2
LOCK_WAIT_S = 300.0


async def find_or_build(
    host: Host, image: ImageFiles, wanted: Sequence[TemplateInputs]
) -> Sequence[Template]:
    """Return the templates with these inputs, which differ in memory, the least first.

    A damaged one is made anew beside it.
    """
    templates_dir = host.config.templates_dir
    templates_dir.mkdir(parents=True, exist_ok=True, mode=0o755)
    found = await asyncio.to_thread(_find_all, templates_dir, wanted)
    if len(found) == len(wanted):
        return list(found.values())
    async with _building_lock(templates_dir):
        found = await asyncio.to_thread(_find_all, templates_dir, wanted)
        missing = [inputs for inputs in wanted if inputs.key() not in found]
        if missing:
            await asyncio.to_thread(_remove_abandoned, templates_dir)
            built = await build_templates(host, image, missing)
            found |= {inputs.key(): template for inputs, template in zip(missing, built, strict=True)}
    return [found[inputs.key()] for inputs in wanted]


def _find_all(templates_dir: Path, wanted: Sequence[TemplateInputs]) -> dict[str, Template]:
    found = {inputs.key(): _find(templates_dir, inputs) for inputs in wanted}
    return {key: template for key, template in found.items() if template is not None}


def _find(templates_dir: Path, inputs: TemplateInputs) -> Template | None:
    link = templates_dir / "by-inputs" / inputs.key()
    try:
        return load_template(link.resolve(strict=True))
    except (OSError, HypervisorFailed):
        return None


@asynccontextmanager
async def _building_lock(templates_dir: Path) -> AsyncIterator[None]:
    """Hold the right to build here. The lock ends with the process that holds it."""
    handle = os.open(templates_dir / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        for _ in range(int(LOCK_WAIT_S / LOCK_POLL_S)):
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                await asyncio.sleep(LOCK_POLL_S)
            else:
                break
        else:
            raise HypervisorFailed(f"another process has been building templates for {LOCK_WAIT_S:g} s")
        yield
    finally:
        os.close(handle)


def _remove_abandoned(templates_dir: Path) -> None:
    """Remove what builders left that died; called with the lock held, so none of them lives."""
    for left in templates_dir.glob(f"{BUILDING_PREFIX}*"):
        shutil.rmtree(left, ignore_errors=True)
