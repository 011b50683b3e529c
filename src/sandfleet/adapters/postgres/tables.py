"""The tables, as the queries see them. `migrations/` is what creates them.

Rule 1: every row that a tenant can own names its organisation.
Rule 2: times are written by whoever decides, deadlines by the database's clock.
Rule 3: what people must not read at rest (`envs`, stored answers, key material) is `sealed` bytes.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Double,
    ForeignKey,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

metadata = MetaData()
_TIME = DateTime(timezone=True)

organisations = Table(
    "organisations",
    metadata,
    Column("id", Text, primary_key=True),
    Column("name", Text, nullable=False, unique=True),
    Column("quota_sandboxes", BigInteger),
    Column("quota_vcpu", BigInteger),
    Column("quota_memory_mib", BigInteger),
    Column("quota_disk_mib", BigInteger),
    Column("cap_memory_mib", BigInteger),
    Column("cap_disk_mib", BigInteger),
    Column("created_at", _TIME, nullable=False),
)

api_keys = Table(
    "api_keys",
    metadata,
    Column("id", Text, primary_key=True),
    Column("organisation_id", Text, ForeignKey("organisations.id"), nullable=False),
    Column("name", Text, nullable=False),
    Column("prefix", Text, nullable=False),
    Column("digest", LargeBinary, nullable=False),
    Column("scopes", JSONB, nullable=False),
    Column("created_at", _TIME, nullable=False),
    Column("revoked_at", _TIME),
    Index("api_keys_prefix", "prefix", postgresql_where=text("revoked_at IS NULL")),
    Index("api_keys_organisation", "organisation_id", "created_at"),
)

workers = Table(
    "workers",
    metadata,
    Column("id", Text, primary_key=True),
    Column("machine_id", Text, nullable=False),
    Column("region", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("version", BigInteger, nullable=False),
    Column("http_url", Text, nullable=False),
    Column("total_memory_mib", BigInteger, nullable=False),
    Column("total_cpu", Integer, nullable=False),
    Column("total_disk_mib", BigInteger, nullable=False),
    Column("cordoned", Boolean, nullable=False, server_default=text("false")),
    Column("draining", Boolean, nullable=False, server_default=text("false")),
    Column("drain_reason", Text),
    Column("templates", JSONB, nullable=False),
    Column("worker_version", Text, nullable=False),
    Column("accelerator", Text, nullable=False),
    Column("cpu_model", Text, nullable=False),
    Column("memory_used_mib", BigInteger, nullable=False),
    Column("cpu_percent", Double, nullable=False),
    Column("disk_used_mib", BigInteger, nullable=False),
    Column("last_seen_at", _TIME),
    Column("instance_id", Text, nullable=False),
    Column("sequence", BigInteger, nullable=False),
    Column("quarantined", JSONB, nullable=False, server_default=text("'[]'::jsonb")),
)

drains = Table(
    "drains",
    metadata,
    Column("worker_id", Text, ForeignKey("workers.id"), primary_key=True),
    Column("actor", Text, nullable=False),
    Column("begun_at", _TIME, nullable=False),
    Column("state", Text, nullable=False),
    Column("drained_at", _TIME),
    Column("moved", Integer, nullable=False),
    Column("stays", JSONB, nullable=False),
    Column("owner", Text, nullable=False, server_default=text("'operator'")),
    Column("reason", Text, nullable=False, server_default=text("''")),
)

launches = Table(
    "launches",
    metadata,
    Column("id", Text, primary_key=True),
    Column("size", Text, nullable=False),
    Column("version", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("requested_at", _TIME, nullable=False),
    Column("ended_at", _TIME),
    Column("failure", Text),
    Column("said", Text, nullable=False),
    Column("machine_id", Text),
    Column("worker_id", Text, ForeignKey("workers.id")),
    Column("ending_since", _TIME),
    Column("gone_at", _TIME),
    Index("launches_open", "id", postgresql_where=text("gone_at IS NULL")),
    Index("launches_machine", "machine_id"),
    Index("launches_worker", "worker_id", postgresql_where=text("worker_id IS NOT NULL")),
)

planner_states = Table(
    "planner_states",
    metadata,
    Column("name", Text, primary_key=True),
    Column("value", JSONB, nullable=False),
    Column("changed_at", _TIME, nullable=False),
)

snapshots = Table(
    "snapshots",
    metadata,
    Column("id", Text, primary_key=True),
    Column("organisation_id", Text, ForeignKey("organisations.id"), nullable=False),
    # Not a foreign key: a checkpoint's snapshot outlives its sandbox's row.
    Column("sandbox_id", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("created_at", _TIME, nullable=False),
    Column("worker_id", Text, ForeignKey("workers.id")),
    Column("manifest", JSONB, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("pause_ms", Double, nullable=False),
    Column("error_message", Text),
    Index("snapshots_sandbox", "sandbox_id"),
)

sandboxes = Table(
    "sandboxes",
    metadata,
    Column("id", Text, primary_key=True),
    Column("organisation_id", Text, ForeignKey("organisations.id"), nullable=False),
    Column("state", Text, nullable=False),
    Column("version", BigInteger, nullable=False),
    Column("epoch", BigInteger, nullable=False),
    Column("worker_id", Text, ForeignKey("workers.id")),
    Column("template", Text, nullable=False),
    Column("memory_mib", BigInteger, nullable=False),
    Column("cpu_count", Integer, nullable=False),
    Column("disk_mib", BigInteger, nullable=False),
    Column("region", Text, nullable=False),
    Column("created_at", _TIME, nullable=False),
    Column("changed_at", _TIME, nullable=False),
    Column("timeout_s", BigInteger, nullable=False),
    Column("port", Integer, nullable=False),
    Column("network_enabled", Boolean, nullable=False),
    Column("envs_sealed", LargeBinary),
    Column("metadata", JSONB, nullable=False),
    Column("alias", Text),
    Column("template_version", Text),
    Column("active_at", _TIME),
    Column("started_at", _TIME),
    Column("stopped_at", _TIME),
    Column("deadline_at", _TIME),
    Column("stop_reason", Text),
    Column("error_message", Text),
    Column("snapshot_id", Text, ForeignKey("snapshots.id", ondelete="SET NULL")),
    Column("from_checkpoint_id", Text),
    Column("cpu_percent", Integer),
    Column("tags", JSONB, nullable=False, server_default=text("'{}'::jsonb")),
    Column("tags_changed_at", _TIME),
    Column("preview_digest", LargeBinary),
    Index("sandboxes_snapshot", "snapshot_id", postgresql_where=text("snapshot_id IS NOT NULL")),
    Index("sandboxes_list", "organisation_id", "created_at", "id"),
    Index("sandboxes_worker", "worker_id", postgresql_where=text("worker_id IS NOT NULL")),
    Index("sandboxes_state", "state"),
    Index(
        "sandboxes_idle",
        "active_at",
        postgresql_where=text("state = 'running' AND timeout_s > 0"),
    ),
)

checkpoints = Table(
    "checkpoints",
    metadata,
    Column("id", Text, primary_key=True),
    Column("organisation_id", Text, ForeignKey("organisations.id"), nullable=False),
    Column("sandbox_id", Text, ForeignKey("sandboxes.id"), nullable=False),
    Column("snapshot_id", Text, ForeignKey("snapshots.id", ondelete="SET NULL")),
    Column("name", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("created_at", _TIME, nullable=False),
    Column("template", Text, nullable=False),
    Column("region", Text, nullable=False),
    Column("memory_mib", BigInteger, nullable=False),
    Column("cpu_count", Integer, nullable=False),
    Column("disk_mib", BigInteger, nullable=False),
    Column("timeout_s", BigInteger, nullable=False),
    Column("port", Integer, nullable=False),
    Column("network_enabled", Boolean, nullable=False),
    Column("envs_sealed", LargeBinary),
    Column("metadata", JSONB, nullable=False),
    Column("template_version", Text),
    Column("size_bytes", BigInteger, nullable=False),
    Column("ready_at", _TIME),
    Column("failed_at", _TIME),
    Column("error_message", Text),
    Index(
        "checkpoints_name",
        "sandbox_id",
        "name",
        unique=True,
        postgresql_where=text("state <> 'failed'"),
    ),
    Index("checkpoints_list", "organisation_id", "sandbox_id", "created_at"),
    Index("checkpoints_snapshot", "snapshot_id"),
)

reservations = Table(
    "reservations",
    metadata,
    Column("sandbox_id", Text, ForeignKey("sandboxes.id"), primary_key=True),
    Column("organisation_id", Text, nullable=False),
    Column("worker_id", Text, ForeignKey("workers.id"), nullable=False),
    Column("memory_mib", BigInteger, nullable=False),
    Column("cpu_count", Integer, nullable=False),
    Column("disk_mib", BigInteger, nullable=False),
    Index("reservations_worker", "worker_id"),
    Index("reservations_organisation", "organisation_id"),
)

second_places = Table(
    "second_places",
    metadata,
    Column("sandbox_id", Text, ForeignKey("sandboxes.id"), primary_key=True),
    Column("worker_id", Text, ForeignKey("workers.id"), nullable=False),
    Column("move_id", Text, nullable=False),
    Column("memory_mib", BigInteger, nullable=False),
    Column("cpu_count", Integer, nullable=False),
    Column("disk_mib", BigInteger, nullable=False),
    Index("second_places_worker", "worker_id"),
)

previews = Table(
    "previews",
    metadata,
    Column("id", Text, primary_key=True),
    Column("organisation_id", Text, ForeignKey("organisations.id"), nullable=False),
    Column("sandbox_id", Text, ForeignKey("sandboxes.id", ondelete="CASCADE"), nullable=False),
    Column("port", Integer, nullable=False),
    Column("custom_hostname", Text),
    Column("auth_config", JSONB, nullable=False),
    Column("created_at", _TIME, nullable=False),
    Index("previews_port", "sandbox_id", "port", unique=True),
)

pending_commands = Table(
    "pending_commands",
    metadata,
    Column("exec_id", Text, primary_key=True),
    Column("organisation_id", Text, ForeignKey("organisations.id"), nullable=False),
    Column("sandbox_id", Text, ForeignKey("sandboxes.id", ondelete="CASCADE"), nullable=False),
    Column("body_sealed", LargeBinary, nullable=False),
    Column("holder", Text, nullable=False),
    Column("created_at", _TIME, nullable=False),
    Column("deadline_at", _TIME, nullable=False),
    Column("lease_deadline_at", _TIME, nullable=False),
    Column("failure_code", Text),
    Column("failure_message", Text),
    Index("pending_commands_lease", "lease_deadline_at"),
)

operations = Table(
    "operations",
    metadata,
    Column("id", Text, primary_key=True),
    Column("kind", Text, nullable=False),
    Column("organisation_id", Text, nullable=False),
    Column("sandbox_id", Text, ForeignKey("sandboxes.id"), nullable=False),
    Column("state", Text, nullable=False),
    Column("step", Text, nullable=False),
    Column("created_at", _TIME, nullable=False),
    Column("deadline_at", _TIME, nullable=False),
    Column("lease_holder", Text),
    Column("lease_token", BigInteger, nullable=False),
    Column("lease_deadline_at", _TIME, nullable=False),
    Column("lease_s", Double, nullable=False),
    Column("arguments", JSONB, nullable=False),
    Column("progress", JSONB, nullable=False),
    Column("cancel_requested", Boolean, nullable=False),
    Column("error_code", Text),
    Column("error_message", Text),
    Column("finished_at", _TIME),
    Index("operations_sandbox", "sandbox_id"),
    Index("operations_ended", "finished_at", postgresql_where=text("finished_at IS NOT NULL")),
    Index("operations_open", "lease_deadline_at", postgresql_where=text("state = 'running'")),
    Index("operations_queue", "created_at", postgresql_where=text("state = 'running' AND step = 'queue'")),
)

transitions = Table(
    "transitions",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("event", Text, nullable=False),
    Column("actor", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("at", _TIME, nullable=False),
    Column("from_state", Text),
    Column("to_state", Text),
    Column("organisation_id", Text),
    Column("sandbox_id", Text),
    Column("worker_id", Text),
    Column("epoch", BigInteger, nullable=False),
    Column("operation_id", Text),
    Column("detail", JSONB, nullable=False),
    Index("transitions_sandbox", "organisation_id", "sandbox_id", "id"),
    Index("transitions_at", "at"),
)

idempotency_keys = Table(
    "idempotency_keys",
    metadata,
    Column("organisation_id", Text, primary_key=True),
    Column("method", Text, primary_key=True),
    Column("path", Text, primary_key=True),
    Column("key", Text, primary_key=True),
    Column("body_digest", LargeBinary, nullable=False),
    Column("resource", JSONB, nullable=False),
    Column("holder", Text, nullable=False),
    Column("lease_deadline_at", _TIME, nullable=False),
    Column("created_at", _TIME, nullable=False),
    Column("answer_sealed", LargeBinary),
    Index("idempotency_keys_created", "created_at"),
)

fleet_secrets = Table(
    "fleet_secrets",
    metadata,
    Column("name", Text, primary_key=True),
    Column("sealed", LargeBinary, nullable=False),
    Column("created_at", _TIME, nullable=False),
)

terms = Table(
    "terms",
    metadata,
    Column("name", Text, primary_key=True),
    Column("number", BigInteger, nullable=False),
    Column("holder", Text, nullable=False),
    Column("raised_at", _TIME, nullable=False),
)
