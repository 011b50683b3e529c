"""The programs of an image build, run for real: bounds, last words, and nothing left behind."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sandfleet.images.build import PARTS_KEPT, _prune
from sandfleet.images.commands import remove_tree, run
from sandfleet.images.errors import ImageBuildFailed
from sandfleet.images.machine_mirrors import machine_mirrors
from sandfleet.images.root import own_mounts


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def test_output_is_returned_and_stdin_given() -> None:
    assert run(["cat"], timeout_s=60, stdin=b"said") == "said"
    assert run(["sh", "-c", "echo $WORD"], timeout_s=60, env={"WORD": "set"}) == "set\n"


def test_failure_carries_the_last_words() -> None:
    with pytest.raises(ImageBuildFailed, match=r"(?s)exit code 3.*the reason"):
        run(["sh", "-c", "echo the reason >&2; exit 3"], timeout_s=60)


def test_missing_program_says_what_to_do() -> None:
    with pytest.raises(ImageBuildFailed, match="make setup"):
        run(["sandfleet-no-such-program"], timeout_s=60)


def test_bound_ends_the_program_and_what_it_started(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    with pytest.raises(ImageBuildFailed, match="longer than"):
        run(["sh", "-c", f"sleep 60 & echo $! > {pid_file}; wait"], timeout_s=2)
    child = int(pid_file.read_text())
    deadline_s = time.monotonic() + 60
    while is_alive(child) and time.monotonic() < deadline_s:
        time.sleep(0.01)
    assert not is_alive(child)


def test_trees_are_removed_but_not_what_is_mounted_in_them(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    tree = tmp_path / "tree"
    for path in (precious, tree / "mounted", tree / "plain"):
        path.mkdir(parents=True)
    script = (
        f"mount -t tmpfs none {tree}/mounted && touch {tree}/mounted/kept && "
        f"{sys.executable} -c 'from pathlib import Path; from sandfleet.images.commands import remove_tree; "
        f'remove_tree(Path("{tree}"))\'; test -e {tree}/mounted/kept && test ! -e {tree}/plain'
    )
    subprocess.run([*own_mounts(), "sh", "-c", script], check=True, capture_output=True)
    remove_tree(tree)
    assert not tree.exists()
    assert precious.exists()


def test_parts_used_last_are_kept(tmp_path: Path) -> None:
    for age, name in enumerate(("new", "newer-than-old", "old", "older", "oldest")):
        (tmp_path / name).mkdir()
        os.utime(tmp_path / name, (1_000_000 - age, 1_000_000 - age))
    _prune(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new", "newer-than-old", "old"]
    assert PARTS_KEPT == 3


def test_mirrors_are_read_from_the_machines_files(tmp_path: Path) -> None:
    (tmp_path / "apt/sources.list.d").mkdir(parents=True)
    (tmp_path / "os-release").write_text("ID=debian\nVERSION_CODENAME=bookworm\n")
    listed = tmp_path / "mirrors"
    listed.write_text("https://listed.example/debian\n")
    (tmp_path / "apt/sources.list.d/debian.sources").write_text(
        f"Types: deb\nURIs: mirror+file:{listed}\nSuites: bookworm\nComponents: main\n"
    )
    (tmp_path / "apt/sources.list.d/broken.list~").write_text(
        "deb http://ignored.example/debian bookworm main"
    )
    assert machine_mirrors(tmp_path).main == "https://listed.example/debian"
