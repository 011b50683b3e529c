"""A guest that writes files all the time and keeps a pattern in memory, each with its checksum beside it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import httpx

_PROGRAM = r"""
import fcntl, hashlib, json, os, time
base = "/workspace/load"
os.makedirs(base, exist_ok=True)
pattern = os.urandom(4 << 20)
digest = hashlib.sha256(pattern).hexdigest()
lock = open("/dev/shm/load.lock", "w")
number = errors = 0
while True:
    number += 1
    content = os.urandom(16384)
    fcntl.flock(lock, fcntl.LOCK_EX)
    try:
        path = f"{base}/{number % 24}"
        with open(path + ".new", "wb") as file:
            file.write(hashlib.sha256(content).hexdigest().encode() + content)
            file.flush()
            os.fsync(file.fileno())
        os.rename(path + ".new", path)
    except OSError:
        errors += 1
    whole = hashlib.sha256(pattern).hexdigest() == digest
    with open("/dev/shm/load.json.new", "w") as file:
        json.dump({"number": number, "memory": whole, "errors": errors}, file)
    os.rename("/dev/shm/load.json.new", "/dev/shm/load.json")
    fcntl.flock(lock, fcntl.LOCK_UN)
    time.sleep(0.1)
"""
_CHECK = r"""
import fcntl, hashlib, json, os, subprocess, time
def told():
    return json.load(open("/dev/shm/load.json"))
lock = open("/dev/shm/load.lock", "w")
first = told()["number"]
for _ in range(300):
    if told()["number"] > first:
        break
    time.sleep(0.1)
fcntl.flock(lock, fcntl.LOCK_EX)
drop = "sync; echo 3 | sudo tee /proc/sys/vm/drop_caches"
subprocess.run(drop, shell=True, check=True, capture_output=True)
wrong = []
names = [name for name in os.listdir("/workspace/load") if name.isdigit()]
for name in names:
    content = open(f"/workspace/load/{name}", "rb").read()
    if hashlib.sha256(content[64:]).hexdigest().encode() != content[:64]:
        wrong.append(name)
last = told()
print(json.dumps(last | {"goes_on": last["number"] > first, "files": len(names), "wrong": wrong}))
"""


@dataclass(frozen=True, slots=True)
class Checked:
    """What a look at the load has found."""

    number: int
    """How often it has written since it began; a guest that went back in time has a lower one."""
    errors: int
    is_right: bool
    answer: dict[str, Any]


def begin_load(http: httpx.Client, sandbox_id: str) -> None:
    """Start it and return when it has written something."""
    written = http.put(
        f"/api/sandboxes/{sandbox_id}/files", params={"path": "/workspace/load.py"}, content=_PROGRAM.encode()
    )
    assert written.status_code < 300, written.text
    written = http.put(
        f"/api/sandboxes/{sandbox_id}/files", params={"path": "/workspace/check.py"}, content=_CHECK.encode()
    )
    assert written.status_code < 300, written.text
    started = (
        "setsid python3 /workspace/load.py > /workspace/load.log 2>&1 & "
        "for n in $(seq 1200); do [ -e /workspace/load/1 ] && exit 0; sleep 0.1; done; "
        "cat /workspace/load.log; exit 1"
    )
    answer = http.post(f"/api/sandboxes/{sandbox_id}/exec/run", json={"cmd": started, "timeout": 200})
    assert answer.status_code == 200, answer.text
    assert answer.json()["exitCode"] == 0, answer.text


def check_load(http: httpx.Client, sandbox_id: str) -> Checked | httpx.Response:
    """Compare every byte that is there with its checksum; the answer itself when no command ran."""
    answer = http.post(
        f"/api/sandboxes/{sandbox_id}/exec/run", json={"cmd": "python3 /workspace/check.py", "timeout": 240}
    )
    if answer.status_code != 200:
        return answer
    body = answer.json()
    if body.get("code"):
        return answer  # begun as an answer, and then nothing could run
    assert body["exitCode"] == 0, body
    found = json.loads(body["stdout"])
    is_right = bool(found["memory"] and found["goes_on"] and found["files"] and not found["wrong"])
    return Checked(number=found["number"], errors=found["errors"], is_right=is_right, answer=found)
