"""The tables of the service's state."""

from __future__ import annotations

import sqlalchemy as sa

metadata = sa.MetaData()

# byte order, so that a prefix is a range of the index on both databases
TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
NUMBER = sa.BigInteger().with_variant(sa.Integer, "sqlite")

users = sa.Table(
    "users",
    metadata,
    sa.Column("user", TEXT, primary_key=True),
    sa.Column("n_events", sa.Integer, nullable=False),
    sa.Column("last_time", sa.Double, nullable=False),
    # since when the summary is behind; null: it is not
    sa.Column("due", sa.Double, index=True),
)
events = sa.Table(
    "events",
    metadata,
    sa.Column("seq", NUMBER, primary_key=True, autoincrement=True),
    sa.Column("id", TEXT, nullable=False, unique=True),
    sa.Column("user", TEXT, nullable=False),
    sa.Column("item", TEXT, nullable=False),
    sa.Column("time", sa.Double, nullable=False),
    sa.Column("weight", sa.Double),
    sa.Index("events_by_user", "user", "time", "seq"),
    sqlite_autoincrement=True,  # a number is never given twice
)
items = sa.Table(
    "items",
    metadata,
    sa.Column("id", TEXT, primary_key=True),
    sa.Column("fields", sa.Text, nullable=False),  # JSON
    # 0: as the first run has it
    sa.Column("version", NUMBER, nullable=False, index=True),
    # whether the text came by a request, and not with a run
    sa.Column("put", sa.Boolean, nullable=False, server_default=sa.false()),
)
revisions = sa.Table(
    "revisions",
    metadata,
    sa.Column("user", TEXT, primary_key=True),
    # what wrote it: the summarizer of a run, in a few letters
    sa.Column("kind", sa.Text, primary_key=True, server_default=""),
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("text", sa.Text, nullable=False),
    sa.Column("covers", sa.Integer, nullable=False),
    sa.Column("first_event", sa.Text, nullable=False),
    sa.Column("last_event", sa.Text, nullable=False),
    sa.Column("sources", sa.Text, nullable=False),  # JSON
    sa.Column("tokens", sa.Integer, nullable=False),
    sa.Column("seconds", sa.Double, nullable=False),
    sa.Column("created", sa.Double, nullable=False),
)
keys = sa.Table(
    "keys",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("name", sa.Text, nullable=False, unique=True),
    sa.Column("salt", sa.Text, nullable=False),
    sa.Column("digest", sa.Text, nullable=False),
    sa.Column("scopes", sa.Text, nullable=False),  # by commas
    sa.Column("created", sa.Double, nullable=False),
)
facts = sa.Table(
    "facts",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("value", sa.Text, nullable=False),
)
