"""The first schema.

Revision ID: 0001
"""

from __future__ import annotations

from alembic import op

revision = "0001"
down_revision = None

STATEMENTS = (
    """
    CREATE TABLE fleet_secrets (
        name TEXT NOT NULL,
        sealed BYTEA NOT NULL,
        created_at TIMESTAMP WITH TIME ZONE NOT NULL,
        PRIMARY KEY (name)
    )
    """,
    """
    CREATE TABLE idempotency_keys (
        organisation_id TEXT NOT NULL,
        method TEXT NOT NULL,
        path TEXT NOT NULL,
        key TEXT NOT NULL,
        body_digest BYTEA NOT NULL,
        resource JSONB NOT NULL,
        holder TEXT NOT NULL,
        lease_deadline_at TIMESTAMP WITH TIME ZONE NOT NULL,
        created_at TIMESTAMP WITH TIME ZONE NOT NULL,
        answer_sealed BYTEA,
        PRIMARY KEY (organisation_id, method, path, key)
    )
    """,
    """
    CREATE INDEX idempotency_keys_created ON idempotency_keys (created_at)
    """,
    """
    CREATE TABLE organisations (
        id TEXT NOT NULL,
        name TEXT NOT NULL,
        quota_sandboxes BIGINT,
        quota_vcpu BIGINT,
        quota_memory_mib BIGINT,
        quota_disk_mib BIGINT,
        cap_memory_mib BIGINT,
        cap_disk_mib BIGINT,
        created_at TIMESTAMP WITH TIME ZONE NOT NULL,
        PRIMARY KEY (id),
        UNIQUE (name)
    )
    """,
    """
    CREATE TABLE terms (
        name TEXT NOT NULL,
        number BIGINT NOT NULL,
        holder TEXT NOT NULL,
        raised_at TIMESTAMP WITH TIME ZONE NOT NULL,
        PRIMARY KEY (name)
    )
    """,
    """
    CREATE TABLE transitions (
        id BIGINT GENERATED ALWAYS AS IDENTITY,
        event TEXT NOT NULL,
        actor TEXT NOT NULL,
        reason TEXT NOT NULL,
        at TIMESTAMP WITH TIME ZONE NOT NULL,
        from_state TEXT,
        to_state TEXT,
        organisation_id TEXT,
        sandbox_id TEXT,
        worker_id TEXT,
        epoch BIGINT NOT NULL,
        operation_id TEXT,
        detail JSONB NOT NULL,
        PRIMARY KEY (id)
    )
    """,
    """
    CREATE INDEX transitions_at ON transitions (at)
    """,
    """
    CREATE INDEX transitions_sandbox ON transitions (organisation_id, sandbox_id, id)
    """,
    """
    CREATE TABLE workers (
        id TEXT NOT NULL,
        machine_id TEXT NOT NULL,
        region TEXT NOT NULL,
        state TEXT NOT NULL,
        version BIGINT NOT NULL,
        http_url TEXT NOT NULL,
        total_memory_mib BIGINT NOT NULL,
        total_cpu INTEGER NOT NULL,
        total_disk_mib BIGINT NOT NULL,
        cordoned BOOLEAN DEFAULT false NOT NULL,
        draining BOOLEAN DEFAULT false NOT NULL,
        drain_reason TEXT,
        templates JSONB NOT NULL,
        worker_version TEXT NOT NULL,
        accelerator TEXT NOT NULL,
        cpu_model TEXT NOT NULL,
        memory_used_mib BIGINT NOT NULL,
        cpu_percent DOUBLE PRECISION NOT NULL,
        disk_used_mib BIGINT NOT NULL,
        last_seen_at TIMESTAMP WITH TIME ZONE,
        instance_id TEXT NOT NULL,
        sequence BIGINT NOT NULL,
        quarantined JSONB DEFAULT '[]'::jsonb NOT NULL,
        PRIMARY KEY (id)
    )
    """,
    """
    CREATE TABLE api_keys (
        id TEXT NOT NULL,
        organisation_id TEXT NOT NULL,
        name TEXT NOT NULL,
        prefix TEXT NOT NULL,
        digest BYTEA NOT NULL,
        scopes JSONB NOT NULL,
        created_at TIMESTAMP WITH TIME ZONE NOT NULL,
        revoked_at TIMESTAMP WITH TIME ZONE,
        PRIMARY KEY (id),
        FOREIGN KEY(organisation_id) REFERENCES organisations (id)
    )
    """,
    """
    CREATE INDEX api_keys_organisation ON api_keys (organisation_id, created_at)
    """,
    """
    CREATE INDEX api_keys_prefix ON api_keys (prefix) WHERE revoked_at IS NULL
    """,
    """
    CREATE TABLE sandboxes (
        id TEXT NOT NULL,
        organisation_id TEXT NOT NULL,
        state TEXT NOT NULL,
        version BIGINT NOT NULL,
        epoch BIGINT NOT NULL,
        worker_id TEXT,
        template TEXT NOT NULL,
        memory_mib BIGINT NOT NULL,
        cpu_count INTEGER NOT NULL,
        disk_mib BIGINT NOT NULL,
        region TEXT NOT NULL,
        created_at TIMESTAMP WITH TIME ZONE NOT NULL,
        changed_at TIMESTAMP WITH TIME ZONE NOT NULL,
        timeout_s BIGINT NOT NULL,
        port INTEGER NOT NULL,
        network_enabled BOOLEAN NOT NULL,
        envs_sealed BYTEA,
        metadata JSONB NOT NULL,
        alias TEXT,
        template_version TEXT,
        active_at TIMESTAMP WITH TIME ZONE,
        started_at TIMESTAMP WITH TIME ZONE,
        stopped_at TIMESTAMP WITH TIME ZONE,
        deadline_at TIMESTAMP WITH TIME ZONE,
        stop_reason TEXT,
        error_message TEXT,
        PRIMARY KEY (id),
        FOREIGN KEY(organisation_id) REFERENCES organisations (id),
        FOREIGN KEY(worker_id) REFERENCES workers (id)
    )
    """,
    """
    CREATE INDEX sandboxes_idle ON sandboxes (active_at) WHERE state = 'running' AND timeout_s > 0
    """,
    """
    CREATE INDEX sandboxes_list ON sandboxes (organisation_id, created_at, id)
    """,
    """
    CREATE INDEX sandboxes_state ON sandboxes (state)
    """,
    """
    CREATE INDEX sandboxes_worker ON sandboxes (worker_id) WHERE worker_id IS NOT NULL
    """,
    """
    CREATE TABLE operations (
        id TEXT NOT NULL,
        kind TEXT NOT NULL,
        organisation_id TEXT NOT NULL,
        sandbox_id TEXT NOT NULL,
        state TEXT NOT NULL,
        step TEXT NOT NULL,
        created_at TIMESTAMP WITH TIME ZONE NOT NULL,
        deadline_at TIMESTAMP WITH TIME ZONE NOT NULL,
        lease_holder TEXT,
        lease_token BIGINT NOT NULL,
        lease_deadline_at TIMESTAMP WITH TIME ZONE NOT NULL,
        lease_s DOUBLE PRECISION NOT NULL,
        arguments JSONB NOT NULL,
        progress JSONB NOT NULL,
        cancel_requested BOOLEAN NOT NULL,
        error_code TEXT,
        error_message TEXT,
        finished_at TIMESTAMP WITH TIME ZONE,
        PRIMARY KEY (id),
        FOREIGN KEY(sandbox_id) REFERENCES sandboxes (id)
    )
    """,
    """
    CREATE INDEX operations_open ON operations (lease_deadline_at) WHERE state = 'running'
    """,
    """
    CREATE INDEX operations_queue ON operations (created_at) WHERE state = 'running' AND step = 'queue'
    """,
    """
    CREATE INDEX operations_sandbox ON operations (sandbox_id)
    """,
    """
    CREATE TABLE reservations (
        sandbox_id TEXT NOT NULL,
        organisation_id TEXT NOT NULL,
        worker_id TEXT NOT NULL,
        memory_mib BIGINT NOT NULL,
        cpu_count INTEGER NOT NULL,
        disk_mib BIGINT NOT NULL,
        PRIMARY KEY (sandbox_id),
        FOREIGN KEY(sandbox_id) REFERENCES sandboxes (id),
        FOREIGN KEY(worker_id) REFERENCES workers (id)
    )
    """,
    """
    CREATE INDEX reservations_organisation ON reservations (organisation_id)
    """,
    """
    CREATE INDEX reservations_worker ON reservations (worker_id)
    """,
    "INSERT INTO terms (name, number, holder, raised_at) VALUES ('leader', 0, '', now())",
)


def upgrade() -> None:
    """Create every table."""
    for statement in STATEMENTS:
        op.execute(statement)


def downgrade() -> None:
    """Refuse: the data would be lost; restore a backup instead."""
    raise NotImplementedError("the first schema has nothing before it")
