"""The real agent behind the real worker service: sessions from HTTP to processes."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

from tests.integration.worker.harness import RunningWorker, a_worker

from sandfleet.adapters.guest.virtio_guest import VirtioGuest
from sandfleet.testing.fake_hypervisor import FakeHypervisor
from sandfleet.wire import session_frames as frames

if TYPE_CHECKING:
    from conftest import AgentProcess

ID = "sb-one"
EPOCH = {"X-Sandfleet-Epoch": "1"}


async def begin(worker: RunningWorker, path: str, **body: Any) -> str:
    async with worker.http.post(f"/sandboxes/{ID}/{path}", data=json.dumps(body), headers=EPOCH) as answer:
        made = await answer.json()
        assert answer.status == 201, made
        return str(made["sessionID"])


async def test_sessions_and_terminals_from_http_to_processes(agent: AgentProcess) -> None:
    async with FakeHypervisor() as hypervisor, a_worker(hypervisor) as worker:
        await worker.start(ID)
        machine = next(iter(hypervisor.machines.values()))
        async with VirtioGuest(agent.socket) as guest:
            fake, machine._guest = machine._guest, guest  # type: ignore[assignment]
            script = "seq 1 200000; echo done >&2; read x; exit 4"
            session = await begin(worker, "exec", cmd="sh", args=["-c", script])
            url = f"/sandboxes/{ID}/exec/{session}"
            async with worker.http.ws_connect(url, headers=EPOCH, params={"offset": "0"}) as opened:
                out, err = hashlib.sha256(), b""
                await opened.send_bytes(b"\x00go\n")
                async for message in opened:
                    if message.data[0] == frames.STDOUT:
                        out.update(message.data[1:])
                    elif message.data[0] == frames.STDERR:
                        err += message.data[1:]
                last = message.data
            whole = "".join(f"{number}\n" for number in range(1, 200001)).encode()
            assert (out.hexdigest(), err) == (hashlib.sha256(whole).hexdigest(), b"done\n")
            assert last == frames.exited(4)
            terminal = await begin(worker, "pty", shell="/bin/sh", cols=70, rows=17)
            async with worker.http.ws_connect(f"/sandboxes/{ID}/pty/{terminal}", headers=EPOCH) as opened:
                await opened.send_bytes(b"\x00stty size; exit 6\n")
                seen = b"".join([one.data[1:] async for one in opened if one.data[0] == frames.STDOUT])
            assert b"17 70\r\n" in seen
            machine._guest = fake
