"""What can go wrong with guest images, classed by what the caller should do.

SandfleetError
├── ImageBuildFailed    the machine or the build is at fault: the message says which step and why
├── ImageDamaged        an installed image is not what its manifest says: build it again
└── NotFound
    └── ImageNotFound   no image of that name is installed: build it
"""

from __future__ import annotations

from sandfleet.model.errors import NotFound, SandfleetError


class ImageBuildFailed(SandfleetError):
    """A step of the build failed; nothing was installed."""

    code = "image_build_failed"


class ImageDamaged(SandfleetError):
    """The files of an installed image do not match its manifest."""

    code = "image_damaged"


class ImageNotFound(NotFound):
    """No such image is installed on this host."""

    code = "image_not_found"
