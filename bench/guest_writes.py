"""A guest that writes, the same on both sides: numbered blocks, each synced before the next, and memory."""

from __future__ import annotations

_PLACE = "/var/tmp/bench"
_BLOCK = 4096
_WRITER = f"""
import os, time
held = bytearray(os.urandom(1 << 20) * 16)
number = 0
with open("{_PLACE}/written", "wb") as file:
    while not os.path.exists("{_PLACE}/enough"):
        file.write(number.to_bytes(8, "little") * {_BLOCK // 8})
        file.flush()
        os.fsync(file.fileno())
        number += 1
        for page in range(number * 64, number * 64 + 64):
            held[page * {_BLOCK} % len(held)] = number & 255
        time.sleep(0.005)
with open("{_PLACE}/count", "w") as file:
    file.write(str(number))
os.rename("{_PLACE}/count", "{_PLACE}/counted")
"""
_CHECKER = f"""
count = int(open("{_PLACE}/counted").read())
with open("{_PLACE}/written", "rb") as file:
    for number in range(count):
        assert file.read({_BLOCK}) == number.to_bytes(8, "little") * {_BLOCK // 8}, number
    assert not file.read(1)
"""


def writing() -> tuple[str, str, str]:
    """Return the command from whose end on the guest writes."""
    lines = (
        f"mkdir -p {_PLACE} && rm -f {_PLACE}/*",
        f"cat > {_PLACE}/writer.py <<'END'{_WRITER}END",
        f"setsid python3 {_PLACE}/writer.py < /dev/null > /dev/null 2>&1 &",
        f"until [ -s {_PLACE}/written ]; do sleep 0.1; done",
    )
    return ("sh", "-c", "\n".join(lines))


def none_is_lost() -> tuple[str, str, str]:
    """Return the command that ends the writing, and fails if the disk lacks a block that was written."""
    lines = (
        f"touch {_PLACE}/enough",
        f"for n in $(seq 300); do [ -e {_PLACE}/counted ] && break; sleep 0.1; done",
        "sync; echo 3 | sudo tee /proc/sys/vm/drop_caches > /dev/null",
        f"exec python3 - <<'END'{_CHECKER}END",
    )
    return ("sh", "-c", "\n".join(lines))
