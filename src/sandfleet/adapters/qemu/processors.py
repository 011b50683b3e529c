"""vCPUs: a machine starts with one and is given the others while it runs.

So one template serves every size, and a warm machine can become any of them. Linux
leaves a CPU that was plugged offline until it is told otherwise.
"""

from __future__ import annotations

import secrets

from sandfleet.adapters.qemu.qmp import Qmp
from sandfleet.model.errors import HypervisorFailed
from sandfleet.ports.guest import ExecOrder, Guest

ONLINE_TIMEOUT_S = 20.0

_ONLINE = """
want=$1
for round in $(seq 100); do
    online=0
    for cpu in /sys/devices/system/cpu/cpu[0-9]*; do
        [ ! -e "$cpu/online" ] || [ "$(cat "$cpu/online")" = 1 ] || echo 1 > "$cpu/online"
        online=$((online + 1))
    done
    [ "$online" -lt "$want" ] || exit 0
    sleep 0.05
done
exit 1
"""


async def plug(qmp: Qmp, guest: Guest, *, count: int) -> None:
    """Plug vCPUs until there are `count`, and bring them online in the guest."""
    slots = await qmp.execute("query-hotpluggable-cpus")
    empty = sorted((slot for slot in slots if "qom-path" not in slot), key=lambda s: s["props"]["socket-id"])
    missing = count - (len(slots) - len(empty))
    if missing > len(empty):
        raise HypervisorFailed(f"this machine has room for {len(slots)} vCPUs, not {count}")
    for slot in empty[: max(0, missing)]:
        number = slot["props"]["socket-id"]
        await qmp.execute("device_add", {"driver": slot["type"], "id": f"cpu{number}", **slot["props"]})
    order = ExecOrder(
        exec_id=f"cpu-{secrets.token_hex(8)}",
        argv=["sh", "-c", _ONLINE, "online", str(count)],
        user="root",
        timeout_s=ONLINE_TIMEOUT_S,
    )
    await guest.start_exec(order)
    status = await guest.wait_exec(order.exec_id, timeout_s=ONLINE_TIMEOUT_S)
    if status.exit_code != 0:
        raise HypervisorFailed(f"the guest did not bring {count} vCPUs online (exit code {status.exit_code})")
