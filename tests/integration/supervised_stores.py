"""A supervisor of PostgreSQL, Valkey and a small program: `python supervised_stores.py DIR [text]`.

The text is the small program's settings: another text makes it another service.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path

from sandfleet.adapters.clock import SystemClock
from sandfleet.local import ports
from sandfleet.local.embedded_postgres import EmbeddedPostgres
from sandfleet.local.embedded_valkey import EmbeddedValkey
from sandfleet.local.layout import Layout
from sandfleet.local.lock import supervisor_lock
from sandfleet.local.service_process import ServiceCommand
from sandfleet.local.services import Service
from sandfleet.local.state import ServiceKind, read_state
from sandfleet.local.supervise import LEAVE_SIGNAL
from sandfleet.local.supervisor import RestartPolicy, Supervisor


def _services(layout: Layout, text: str) -> list[Service]:
    before = read_state(layout)
    numbers = [s.port for s in before.services] if before else [ports.free_port(), ports.free_port(), 0]
    postgres = EmbeddedPostgres(layout.postgres, log_path=layout.log("postgres"))
    valkey = EmbeddedValkey(layout.valkey, log_path=layout.log("valkey"))
    postgres.prepare()
    valkey.prepare(numbers[1])
    program = layout.data_dir / "program.py"
    program.write_text(
        "import sys, time\n"
        "print('begun', flush=True)\n"
        "if 'broken' in sys.argv: sys.exit(7)\n"
        "time.sleep(600)\n"
    )
    return [
        Service(
            name="postgres",
            kind=ServiceKind.POSTGRES,
            port=numbers[0],
            command=postgres.command(numbers[0]),
            own_path=postgres.cluster,
            is_ready=postgres.is_ready,
        ),
        Service(
            name="valkey",
            kind=ServiceKind.VALKEY,
            port=numbers[1],
            command=valkey.command(),
            own_path=valkey.config_file,
            is_ready=lambda _pid: valkey.is_ready(numbers[1]),
        ),
        Service(
            name="program",
            kind=ServiceKind.SERVER,
            port=0,
            command=ServiceCommand(
                name="program",
                argv=[sys.executable, str(program), text],
                log_path=layout.log("program"),
                environment={},
            ),
            own_path=program,
            is_ready=lambda _pid: True,
            after=("postgres", "valkey"),
            settings=text,
        ),
    ]


async def _run(layout: Layout, text: str) -> None:
    supervisor = Supervisor(
        layout, _services(layout, text), url="http://nowhere", clock=SystemClock(), before=read_state(layout)
    )
    # Only what cannot come up waits: what was ready and is killed is back long before that.
    first_pause_s = 0.2 if text == "broken" else 600.0
    supervisor.policy = RestartPolicy(attempts_max=3, first_pause_s=first_pause_s)
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, supervisor.request_stop)
    loop.add_signal_handler(signal.SIGHUP, supervisor.request_retry)
    loop.add_signal_handler(LEAVE_SIGNAL, supervisor.request_leave)
    await supervisor.run()


if __name__ == "__main__":
    here = Layout(Path(sys.argv[1]))
    here.make()
    with supervisor_lock(here):
        asyncio.run(_run(here, sys.argv[2] if len(sys.argv) > 2 else ""))
