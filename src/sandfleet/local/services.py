"""The services of a one-machine fleet: how each is started and when it is ready."""

from __future__ import annotations

import hashlib
import http.client
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from sandfleet.local import ports
from sandfleet.local.atomic_file import write_atomically
from sandfleet.local.balancer import LocalBalancer
from sandfleet.local.configuration import (
    API_PORT_PREFERRED,
    FleetConfiguration,
    FleetSecrets,
    WorkerChoice,
    load_server_choices,
)
from sandfleet.local.embedded_postgres import EmbeddedPostgres
from sandfleet.local.embedded_valkey import EmbeddedValkey
from sandfleet.local.launched_machines import PlacedMachine
from sandfleet.local.layout import Layout
from sandfleet.local.service_process import ServiceCommand
from sandfleet.local.settings_files import (
    SettingValue,
    Stores,
    as_toml,
    machine_settings,
    server_settings,
    worker_settings,
)
from sandfleet.local.state import ServiceKind

_ASK_TIMEOUT_S = 2.0
_SERVER_PATIENCE_S = 40.0
_WORKER_PATIENCE_S = 30.0
_KEPT_VARIABLES = (
    "PATH",
    "HOME",
    "LANG",
    "LC_ALL",
    "TMPDIR",
    "VIRTUAL_ENV",
    "SSL_CERT_FILE",
    "SANDFLEET_FAULT_POINTS_DIR",
)
SERVER = "server"
BALANCER = "balancer"


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """One service. `after`: names of those that must have been ready once before it starts."""

    name: str
    kind: ServiceKind
    port: int
    command: ServiceCommand
    own_path: Path
    """The one argument of the command that belongs to this fleet alone."""
    is_ready: Callable[[int], bool]
    after: tuple[str, ...] = ()
    settings: str = ""
    ready_within_s: float = 60.0
    is_launched: bool = False

    @property
    def signature(self) -> list[str]:
        """Return the beginning of the command line by which a process of it is known."""
        argv = list(self.command.argv)
        return argv[: argv.index(str(self.own_path)) + 1]

    @property
    def digest(self) -> str:
        """Return the digest of command and settings; an equal one may be adopted.

        The environment is left out: it differs from shell to shell and decides nothing.
        """
        parts = (list(self.command.argv), self.settings)
        return hashlib.sha256(msgspec.json.encode(parts)).hexdigest()


def server_name(number: int) -> str:
    """Return the name of a server; the first has none of the others' numbers, with or without others."""
    return SERVER if number == 0 else f"{SERVER}-{number + 1}"


def with_ports(configuration: FleetConfiguration, held: ports.HeldPorts) -> FleetConfiguration:
    """Return the configuration with a usable port, held from now on, for everything."""
    return msgspec.structs.replace(
        configuration,
        api_port=held.choose(configuration.api_port or API_PORT_PREFERRED, host=configuration.api_host),
        server_ports=tuple(held.choose(port) for port in configuration.server_ports)
        if configuration.is_balanced
        else configuration.server_ports,
        postgres_port=held.choose(configuration.postgres_port),
        valkey_port=held.choose(configuration.valkey_port),
        workers=tuple(
            msgspec.structs.replace(worker, port=held.choose(worker.port)) for worker in configuration.workers
        ),
    )


def services_of(
    layout: Layout, configuration: FleetConfiguration, secrets: FleetSecrets
) -> tuple[Service, ...]:
    """Prepare everything (directories, database, settings files) and return the services in order."""
    postgres = EmbeddedPostgres(layout.postgres, log_path=layout.log("postgres"))
    valkey = EmbeddedValkey(layout.valkey, log_path=layout.log("valkey"))
    postgres.prepare()
    valkey.prepare(configuration.valkey_port)
    stores = Stores(
        postgres_url=postgres.url(configuration.postgres_port),
        redis_url=valkey.url(configuration.valkey_port),
    )
    return (
        Service(
            name="postgres",
            kind=ServiceKind.POSTGRES,
            port=configuration.postgres_port,
            command=postgres.command(configuration.postgres_port),
            own_path=postgres.cluster,
            is_ready=postgres.is_ready,
        ),
        Service(
            name="valkey",
            kind=ServiceKind.VALKEY,
            port=configuration.valkey_port,
            command=valkey.command(),
            own_path=valkey.config_file,
            is_ready=lambda _pid: valkey.is_ready(configuration.valkey_port),
            settings=valkey.config_file.read_text(),
        ),
        *_servers(layout, configuration, secrets, stores),
        *(
            _worker(
                layout,
                worker,
                as_toml(worker_settings(configuration, worker, secrets, layout=layout)),
                after=BALANCER if configuration.is_balanced else SERVER,
            )
            for worker in configuration.workers
        ),
    )


def machine_service(
    layout: Layout, configuration: FleetConfiguration, secrets: FleetSecrets, *, machine: PlacedMachine
) -> Service:
    """Return the worker that is a machine which the fleet has launched."""
    order = machine.order
    choice = WorkerChoice(id=order.worker_id, port=machine.port, slot=machine.slot)
    settings = worker_settings(configuration, choice, secrets, layout=layout, share_mib=order.memory_mib)
    settings |= order.settings | {
        "machine_id": order.launch_id,
        "worker_version": order.version,
        "cpu_budget": order.cpu_count,
        "disk_budget_mib": order.disk_mib,
    }
    after = BALANCER if configuration.is_balanced else SERVER
    service = _worker(layout, choice, as_toml(settings), after=after, program=order.program)
    return replace(service, is_launched=True)


def _servers(
    layout: Layout, configuration: FleetConfiguration, secrets: FleetSecrets, stores: Stores
) -> list[Service]:
    """Return the servers, and what stands before several."""
    tables, servers = machine_settings(configuration, layout), []
    for number in range(len(configuration.server_ports)):
        settings = server_settings(configuration, secrets, stores, layout=layout, number=number)
        added = load_server_choices(layout, decided=settings.keys() | tables.keys())
        servers.append(_server(layout, server_name(number), settings, more=as_toml(tables | added)))
    return [*servers, _balancer(layout, configuration, servers)] if configuration.is_balanced else servers


def _balancer(layout: Layout, configuration: FleetConfiguration, servers: Sequence[Service]) -> Service:
    balancer = LocalBalancer(layout.balancer, log_path=layout.log(BALANCER))
    host, port = configuration.api_host, configuration.api_port
    text = balancer.prepare(host=host, port=port, servers=[(server.name, server.port) for server in servers])
    return Service(
        name=BALANCER,
        kind=ServiceKind.BALANCER,
        port=port,
        command=balancer.command(),
        own_path=balancer.config_file,
        is_ready=lambda _pid: _answers(_asked(host), port, "/readyz"),
        # One of them is enough to begin: the first, which also brings the database's schema up to date.
        after=(servers[0].name,),
        settings=text,
    )


def _server(layout: Layout, name: str, settings: Mapping[str, SettingValue], *, more: str) -> Service:
    path, text = layout.settings(name), as_toml(settings) + more
    write_atomically(path, text.encode(), mode=0o600)
    host, port = str(settings["listen_host"]), int(settings["listen_port"])
    return Service(
        name=name,
        kind=ServiceKind.SERVER,
        port=port,
        command=_command("server", name, path, layout=layout, patience_s=_SERVER_PATIENCE_S),
        own_path=path,
        is_ready=lambda _pid: _answers(_asked(host), port, "/readyz"),
        after=("postgres", "valkey"),
        settings=text,
    )


def _worker(layout: Layout, choice: WorkerChoice, settings: str, *, after: str, program: str = "") -> Service:
    path = layout.settings(choice.id)
    write_atomically(path, settings.encode(), mode=0o600)
    layout.worker_data(choice.id).mkdir(parents=True, exist_ok=True)
    return Service(
        name=choice.id,
        kind=ServiceKind.WORKER,
        port=choice.port,
        command=_command(
            "worker", choice.id, path, layout=layout, patience_s=_WORKER_PATIENCE_S, program=program
        ),
        own_path=path,
        is_ready=lambda _pid: _answers(ports.LOOPBACK, choice.port, "/health"),
        after=(after,),
        settings=settings,
        ready_within_s=300.0,  # the first start of a worker may build the template before it listens
    )


def _command(
    verb: str, name: str, settings: Path, *, layout: Layout, patience_s: float, program: str = ""
) -> ServiceCommand:
    return ServiceCommand(
        name=name,
        argv=[program or sys.executable, "-m", "sandfleet", verb, "--settings", str(settings)],
        log_path=layout.log(name),
        # Variables of the caller's shell must not override the settings file.
        environment={key: os.environ[key] for key in _KEPT_VARIABLES if key in os.environ},
        patience_s=patience_s,
    )


def _asked(host: str) -> str:
    """Return the address at which a service of this machine that listens on `host` is asked."""
    return ports.LOOPBACK if host in ("0.0.0.0", "::") else host


def _answers(host: str, port: int, path: str) -> bool:
    connection = http.client.HTTPConnection(host, port, timeout=_ASK_TIMEOUT_S)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
