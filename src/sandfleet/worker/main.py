"""Wiring of `sandfleet worker`: settings in, parts together, run until told to stop."""

from __future__ import annotations

import asyncio
import signal
from contextlib import AsyncExitStack

import aiohttp
import structlog
import uvloop

from sandfleet import __version__
from sandfleet.adapters.blobs.objects import Objects
from sandfleet.adapters.blobs.snapshot_store import ObjectSnapshotStore
from sandfleet.adapters.clock import SystemClock
from sandfleet.adapters.fault_points import FaultPoints, armed
from sandfleet.adapters.metadata.azure import AzureMetadata
from sandfleet.adapters.metadata.ec2 import Ec2Metadata
from sandfleet.adapters.metadata.endpoint import MetadataEndpoint
from sandfleet.model.errors import HypervisorFailed
from sandfleet.ports.clock import Clock
from sandfleet.ports.hypervisor import Hypervisor, MachineOrder
from sandfleet.ports.moves import Mover
from sandfleet.ports.snapshots import SnapshotSaver
from sandfleet.worker import logs
from sandfleet.worker.adoption import adopt
from sandfleet.worker.announcements import Announcements
from sandfleet.worker.app import create_app
from sandfleet.worker.authentication import FleetTokens
from sandfleet.worker.background import Background
from sandfleet.worker.engine import engine, host_claim
from sandfleet.worker.heartbeat import HeartbeatSender, WorkerFacts, cpu_model
from sandfleet.worker.host import Host
from sandfleet.worker.http_server import http_server, listen
from sandfleet.worker.operations.fill_pool import keep_filled
from sandfleet.worker.settings import WorkerSettings
from sandfleet.worker.size_requests import SizeRequests
from sandfleet.worker.warm_pool import WarmPool

log = structlog.get_logger("sandfleet.worker")
_PREPARE_AGAIN_S_MAX = 15.0
_GOODBYE_S = 2.0


def run_worker(settings: WorkerSettings) -> None:
    """Run the worker until SIGTERM or SIGINT; VMs run on after it."""
    logs.configure(settings.log_file)
    log.info("worker_begins", version=__version__, settings=settings.redacted())
    with host_claim(settings), asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_run(settings))
    log.info("worker_ended")


async def _run(settings: WorkerSettings) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    faults = armed(settings.fault_points_dir)
    hypervisor = engine(settings, faults=faults)
    await serve(
        settings,
        hypervisor,
        snapshots=hypervisor.snapshots,
        mover=hypervisor.mover,
        stop=stop,
        faults=faults,
    )


async def serve(
    settings: WorkerSettings,
    hypervisor: Hypervisor,
    *,
    stop: asyncio.Event,
    snapshots: SnapshotSaver | None = None,
    mover: Mover | None = None,
    faults: FaultPoints | None = None,
) -> None:
    """Serve around `hypervisor` until `stop`; then finish what is in flight and say goodbye."""
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    clock = SystemClock()
    faults = faults or FaultPoints()
    tokens = FleetTokens(
        worker_id=settings.worker_id, clock=clock, file=settings.data_dir / "public_keys.json"
    )
    async with AsyncExitStack() as stack:
        listener = stack.enter_context(listen(settings.listen_host, settings.listen_port))
        session = await stack.enter_async_context(aiohttp.ClientSession())
        objects = Objects.open(settings.store_url())
        stack.callback(objects.close)
        background = await stack.enter_async_context(Background())
        host = _host(settings, hypervisor, clock=clock, background=background)
        host.snapshots, host.mover, host.faults = snapshots, mover, faults
        host.store = ObjectSnapshotStore(objects, clock=clock, faults=faults)
        server = http_server(create_app(host, tokens), stop_grace_s=settings.stop_grace_s)
        serving = background.start(server.serve(sockets=[listener]), name="http")
        facts = worker_facts(settings, port=listener.getsockname()[1])
        host.region = settings.region
        host.ask_for_size = _size_requests(settings, session)
        announcements = _announcements(settings, session, clock)
        if announcements is not None:
            background.start(announcements.run(), name="announcements")
        sender = HeartbeatSender(host, facts, tokens, session=session, announcements=announcements)
        beating = background.start(sender.run(), name="heartbeat")
        beginning = background.start(_begin_or_stop(host, settings, stop=stop), name="begin")
        log.info("worker_listens", url=facts.http_url)
        await stop.wait()
        host.is_stopping = True
        log.info("worker_stops", residents=len(host.residents))
        beating.cancel()
        await background.start(sender.beat(), name="goodbye").settled(timeout_s=_GOODBYE_S)
        server.should_exit = True
        await serving.settled()
    if beginning.error is not None:
        raise beginning.error


def _host(
    settings: WorkerSettings, hypervisor: Hypervisor, *, clock: SystemClock, background: Background
) -> Host:
    return Host(
        worker_id=settings.worker_id,
        hypervisor=hypervisor,
        clock=clock,
        background=background,
        limits=settings.limits(),
        pool=WarmPool(order=_pool_order(settings), size=settings.warm_pool_size),
        landing_address=settings.landing_address(),
    )


def _size_requests(settings: WorkerSettings, session: aiohttp.ClientSession) -> SizeRequests:
    return SizeRequests(
        session,
        control_url=settings.control_url,
        worker_id=settings.worker_id,
        join_token=settings.join_token.get_secret_value(),
    )


def _announcements(
    settings: WorkerSettings, session: aiohttp.ClientSession, clock: Clock
) -> Announcements | None:
    if settings.notice_source == "none":
        return None
    endpoint = MetadataEndpoint(session, url=settings.notice_url)
    source = Ec2Metadata(endpoint) if settings.notice_source == "ec2" else AzureMetadata(endpoint)
    return Announcements(source, clock=clock, interval_s=settings.notice_interval_s)


async def _begin_or_stop(host: Host, settings: WorkerSettings, *, stop: asyncio.Event) -> None:
    """Begin, or end the process: half begun it would serve nobody, and only a fresh one can begin again."""
    try:
        await _begin(host, settings)
    except Exception as error:
        host.trouble = "the start failed"
        log.exception("start_failed")
        stop.set()
        raise HypervisorFailed(f"the worker could not start: {error}") from error


async def _begin(host: Host, settings: WorkerSettings) -> None:
    """Learn what the host holds, then make ready what new sandboxes need."""
    await adopt(host)
    failures = 0
    while True:
        try:
            host.accelerator = (await host.hypervisor.accelerator()).name
            host.templates = {info.name: info for info in await host.hypervisor.prepare()}
            break
        except Exception:  # a host that lacks something now may have it soon
            failures += 1
            host.trouble = "the templates cannot be made"
            log.exception("templates_not_ready", failures=failures)
            await host.clock.sleep(min(_PREPARE_AGAIN_S_MAX, 2.0**failures))
    host.trouble = None
    log.info("templates_ready", templates={name: info.version for name, info in host.templates.items()})
    host.changed.set()
    for number in range(settings.warm_pool_concurrency):
        host.background.start(keep_filled(host), name=f"warm pool {number}")


def worker_facts(settings: WorkerSettings, *, port: int) -> WorkerFacts:
    """Return what the heartbeat says of this process all its life."""
    name = f"[{settings.listen_host}]" if ":" in settings.listen_host else settings.listen_host
    return WorkerFacts(
        worker_id=settings.worker_id,
        machine_id=settings.machine_id,
        region=settings.region,
        cpu_model=cpu_model(),
        http_url=settings.advertise_url or f"http://{name}:{port}",
        total_memory_mib=settings.memory_budget_mib,
        total_cpu=settings.cpu_budget,
        total_disk_mib=settings.disk_budget_mib,
        data_dir=str(settings.data_dir),
        control_url=settings.control_url,
        join_token=settings.join_token.get_secret_value(),
        worker_version=settings.worker_version or __version__,
        interval_s=settings.heartbeat_interval_s,
        notice_file=settings.notice_file,
    )


def _pool_order(settings: WorkerSettings) -> MachineOrder:
    """Return the shape that a create without sizes asks for."""
    return MachineOrder(
        template=settings.warm_pool_template,
        memory_mib=settings.memory_default_mib,
        cpu_count=max(1, -(-settings.memory_default_mib // 4096)),
        disk_mib=settings.disk_default_mib,
    )
