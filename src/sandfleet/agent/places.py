"""Where things are: the user's home, and what in the file system belongs to the user."""

from __future__ import annotations

import os
from dataclasses import dataclass

HOME = "/home/sandbox"
WORKSPACE = "/workspace"


@dataclass(frozen=True, slots=True)
class Places:
    """Paths that an agent on a host replaces by its own."""

    home: str = HOME
    workspace: str = WORKSPACE
    root: str = "/"
    """On the disk of the system itself; home and workspace are on another."""
    user: str = "sandbox"
    switches_user: bool = True
    """False runs every exec as the agent's own user (an agent on a host)."""

    def absolute(self, path: str) -> str:
        """Return `path` from the root; a relative one starts at home."""
        return os.path.join(self.home, path)

    def belongs_to_user(self, real_path: str) -> bool:
        """Whether what is made at this resolved path is the user's."""
        roots = (self.home, self.workspace)
        return any(real_path == root or real_path.startswith(root + "/") for root in roots)
