"""vCPUs: a machine has as many as the largest size, of which its guest starts one.

So one template serves every size, and a warm machine can become any of them: the
others are brought online in the guest when a size needs them. Until then they are
threads of QEMU that never run. (Plugging them would be as good, but Linux does not
take a plugged CPU when it runs without a hypervisor that it knows, as under TCG.)
"""

from __future__ import annotations

import secrets

from sandfleet.model.errors import HypervisorFailed
from sandfleet.ports.guest import ExecOrder, Guest
from sandfleet.wire.agent_messages import WARM_EXEC_PREFIX

ONLINE_TIMEOUT_S = 20.0

_SET_ONLINE = """
set -e
for cpu in /sys/devices/system/cpu/cpu[1-9]*; do
    number=${cpu##*/cpu}
    if [ "$number" -lt "$1" ]; then wanted=1; else wanted=0; fi
    [ "$(cat "$cpu/online")" = "$wanted" ] || echo "$wanted" > "$cpu/online"
done
"""


async def set_online(guest: Guest, *, count: int) -> None:
    """Have `count` vCPUs online in the guest when this returns."""
    order = ExecOrder(
        exec_id=f"{WARM_EXEC_PREFIX}cpu-{secrets.token_hex(8)}",
        argv=["sh", "-c", _SET_ONLINE, "set-online", str(count)],
        user="root",
        timeout_s=ONLINE_TIMEOUT_S,
    )
    await guest.start_exec(order)
    status = await guest.wait_exec(order.exec_id, timeout_s=ONLINE_TIMEOUT_S)
    if status.exit_code != 0:
        raise HypervisorFailed(f"the guest did not bring {count} vCPUs online (exit code {status.exit_code})")
