"""The first schema.

Revision ID: 0001
"""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
NUMBER = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    """Makes the tables."""
    op.create_table(
        "users",
        sa.Column("user", TEXT, primary_key=True),
        sa.Column("n_events", sa.Integer, nullable=False),
        sa.Column("last_time", sa.Double, nullable=False),
        sa.Column("due", sa.Double),
    )
    op.create_index("ix_users_due", "users", ["due"])
    op.create_table(
        "events",
        sa.Column("seq", NUMBER, primary_key=True, autoincrement=True),
        sa.Column("id", TEXT, nullable=False, unique=True),
        sa.Column("user", TEXT, nullable=False),
        sa.Column("item", TEXT, nullable=False),
        sa.Column("time", sa.Double, nullable=False),
        sa.Column("weight", sa.Double),
        sqlite_autoincrement=True,
    )
    op.create_index("events_by_user", "events", ["user", "time", "seq"])
    op.create_table(
        "items",
        sa.Column("id", TEXT, primary_key=True),
        sa.Column("fields", sa.Text, nullable=False),
        sa.Column("version", NUMBER, nullable=False),
    )
    op.create_index("ix_items_version", "items", ["version"])
    op.create_table(
        "revisions",
        sa.Column("user", TEXT, primary_key=True),
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("text", sa.Text, nullable=False),
        sa.Column("covers", sa.Integer, nullable=False),
        sa.Column("first_event", sa.Text, nullable=False),
        sa.Column("last_event", sa.Text, nullable=False),
        sa.Column("sources", sa.Text, nullable=False),
        sa.Column("tokens", sa.Integer, nullable=False),
        sa.Column("seconds", sa.Double, nullable=False),
        sa.Column("created", sa.Double, nullable=False),
    )
    op.create_table(
        "keys",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("name", sa.Text, nullable=False, unique=True),
        sa.Column("salt", sa.Text, nullable=False),
        sa.Column("digest", sa.Text, nullable=False),
        sa.Column("scopes", sa.Text, nullable=False),
        sa.Column("created", sa.Double, nullable=False),
    )
    op.create_table(
        "facts",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("value", sa.Text, nullable=False),
    )
