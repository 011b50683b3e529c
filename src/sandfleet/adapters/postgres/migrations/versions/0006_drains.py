"""Which workers are being drained, and how far that is.

Revision ID: 0006
"""

from __future__ import annotations

from alembic import op

revision = "0006"
down_revision = "0005"

CREATE = """
    CREATE TABLE drains (
        worker_id TEXT NOT NULL,
        actor TEXT NOT NULL,
        begun_at TIMESTAMP WITH TIME ZONE NOT NULL,
        state TEXT NOT NULL,
        drained_at TIMESTAMP WITH TIME ZONE,
        moved INTEGER NOT NULL,
        stays JSONB NOT NULL,
        PRIMARY KEY (worker_id),
        FOREIGN KEY(worker_id) REFERENCES workers (id)
    )
"""


def upgrade() -> None:
    """Create the table."""
    op.execute(CREATE)


def downgrade() -> None:
    """Take it away; workers that were being drained take sandboxes again."""
    op.execute("UPDATE workers SET draining = false WHERE draining")
    op.execute("DROP TABLE drains")
