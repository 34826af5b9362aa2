"""The tables. Every row carries its tenant; row-level security keeps tenants apart (see `migrations/`).

Every primary key begins with the tenant, so that a tenant's rows can one day be moved as a whole.
"""

from typing import Any

from pgvector.sqlalchemy import VECTOR  # pyright: ignore[reportMissingTypeStubs]
from sqlalchemy import (
    ARRAY,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Computed,
    DateTime,
    Float,
    ForeignKeyConstraint,
    Identity,
    Index,
    Integer,
    MetaData,
    Row,
    SmallInteger,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

from app.store.job_tables import declare_job_tables
from app.store.persona_tables import declare_persona_tables

AnyRow = Row[*tuple[Any, ...]]
"""A row whose columns are named where it is read."""

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)

Moment = DateTime(timezone=True)
TERMS = "tsvector_to_array(to_tsvector('english'::regconfig, content))"
"""The stemmed words of a memory, computed by the database from its content."""


def _user_key() -> ForeignKeyConstraint:
    return ForeignKeyConstraint(["tenant_id", "user_id"], ["users.tenant_id", "users.user_id"])


tenants = Table(
    "tenants",
    metadata,
    Column("tenant_id", Text, primary_key=True),
    Column("settings", JSONB, nullable=False, server_default=text("'{}'::jsonb")),
    Column("created_at", Moment, nullable=False, server_default=text("now()")),
)

api_keys = Table(
    "api_keys",
    metadata,
    Column("tenant_id", Text, primary_key=True),
    Column("key_id", Text, primary_key=True),
    Column("name", Text, nullable=False),
    Column("key_hash", Text, nullable=False),
    Column("scopes", ARRAY(Text), nullable=False),
    Column("created_at", Moment, nullable=False),
    Column("revoked_at", Moment),
    Column("user_id", Text),
    ForeignKeyConstraint(["tenant_id"], ["tenants.tenant_id"]),
    Index("ix_api_keys_key_hash", "key_hash"),
)
"""`user_id`: the only user whom the key opens; null where it opens all of its tenant's. The user may not exist yet."""

users = Table(
    "users",
    metadata,
    Column("tenant_id", Text, primary_key=True),
    Column("user_id", Text, primary_key=True),
    Column("facets", JSONB, nullable=False, server_default=text("'{}'::jsonb")),
    Column("version", Integer, nullable=False, server_default=text("0")),
    Column("vector", VECTOR),
    Column("vector_space", Text),
    Column("vector_weight", Float, nullable=False, server_default=text("0")),
    Column("vector_at", Moment),
    Column("created_at", Moment, nullable=False),
    Column("updated_at", Moment, nullable=False),
    Column("has_consent", Boolean, nullable=False, server_default=text("true")),
    Column("memories", BigInteger, nullable=False, server_default=text("0")),
    Column("writes", BigInteger, nullable=False, server_default=text("0")),
    Column("graph", SmallInteger, nullable=False, server_default=text("0")),
    Column("consolidated", BigInteger, nullable=False, server_default=text("0")),
    ForeignKeyConstraint(["tenant_id"], ["tenants.tenant_id"]),
)
"""`memories` (all rows, versions too) and `writes`, which every transaction raises that changes what a search of the
user can find, are kept by triggers. `graph`: the graph that the user is searched in; 0 none, below 0 while it is made.
`consolidated`: what `writes` was when their memories were last compared with one another.
"""

KEPT_BY_DATABASE = frozenset({"memories", "writes", "graph", "consolidated"})
"""Columns of users that nobody else writes, and that are no part of what is known about them."""

DERIVED = frozenset({"place", "job"})
"""Columns that are made of the others, or mean something in this database alone."""

facet_changes = Table(
    "facet_changes",
    metadata,
    Column("tenant_id", Text, primary_key=True),
    Column("change_id", Uuid, primary_key=True),
    Column("user_id", Text, nullable=False),
    Column("facet", Text, nullable=False),
    Column("before", Float, nullable=False),
    Column("after", Float, nullable=False),
    Column("uncertainty", Float, nullable=False),
    Column("reason", Text, nullable=False),
    Column("signal_id", Uuid),
    Column("version", Integer, nullable=False),
    Column("changed_at", Moment, nullable=False),
    _user_key(),
    Index("ix_facet_changes_user", "tenant_id", "user_id", "version"),
)

memories = Table(
    "memories",
    metadata,
    Column("tenant_id", Text, primary_key=True),
    Column("user_id", Text, primary_key=True),
    Column("memory_id", Uuid, primary_key=True),
    Column("type", Text, nullable=False),
    Column("content", Text, nullable=False),
    Column("confidence", Float, nullable=False),
    Column("tags", ARRAY(Text), nullable=False),
    Column("source", Text, nullable=False),
    Column("slots", ARRAY(Text), nullable=False),
    Column("created_at", Moment, nullable=False),
    Column("updated_at", Moment, nullable=False),
    Column("valid_from", Moment, nullable=False),
    Column("valid_to", Moment),
    Column("expires_at", Moment),
    Column("superseded_by", Uuid),
    Column("version_of", Uuid),
    Column("session", Text),
    Column("turn", Integer),
    Column("speaker", Text),
    Column("place", BigInteger),
    Column("quote", Text),
    Column("proof_count", Integer, nullable=False, server_default=text("1")),
    Column("known_from", Moment),
    Column("ended_at", ARRAY(Moment), nullable=False, server_default=text("'{}'::timestamptz[]")),
    Column("told_to", ARRAY(Moment), nullable=False, server_default=text("'{}'::timestamptz[]")),
    Column("is_set_right", Boolean, nullable=False, server_default=text("false")),
    Column("told_at", ARRAY(Moment), nullable=False, server_default=text("'{}'::timestamptz[]")),
    Column("later_sources", ARRAY(Text), nullable=False, server_default=text("'{}'::text[]")),
    Column("later_quotes", ARRAY(Text), nullable=False, server_default=text("'{}'::text[]")),
    Column("terms", ARRAY(Text), Computed(TERMS, persisted=True)),
    CheckConstraint("confidence >= 0 AND confidence <= 1", name="confidence"),
    _user_key(),
    Index("ix_memories_id", "tenant_id", "memory_id"),
    Index("ix_memories_user", "tenant_id", "user_id", "type"),
    Index("ix_memories_place", "tenant_id", "user_id", "place", postgresql_where=text("place IS NOT NULL")),
    Index("ix_memories_version", "tenant_id", "version_of", postgresql_where=text("version_of IS NOT NULL")),
    Index(
        "ix_memories_expiry",
        "tenant_id",
        "expires_at",
        postgresql_where=text("expires_at IS NOT NULL AND version_of IS NULL"),
    ),
    Index(
        "ix_memories_slots",
        "tenant_id",
        "user_id",
        text("valid_from DESC"),
        "memory_id",
        postgresql_where=text("slots <> '{}'::text[]"),
    ),
    postgresql_partition_by="HASH (tenant_id, user_id)",
)
"""Their vectors are in the tables of each space (`app.store.space_tables`). `place` says where in which conversation
a memory was said (`app.domain.places`); NULL where it stands alone. `known_from`: since when it is known as it is,
NULL since `created_at`. At each moment of `ended_at` its `valid_to` was changed; before, it was the value beside it in
`told_to`. `told_at`: the moments after `valid_from` of which it was told again that it holds, in order.
`is_set_right`: by the user."""

memory_words = Table(
    "memory_words",
    metadata,
    Column("tenant_id", Text, primary_key=True),
    Column("user_id", Text, primary_key=True),
    Column("term", Text, primary_key=True),
    Column("memory_id", Uuid, primary_key=True),
    Column("place", BigInteger),
    Column("words", SmallInteger, nullable=False, server_default=text("0")),
    ForeignKeyConstraint(["tenant_id", "user_id"], ["users.tenant_id", "users.user_id"], ondelete="CASCADE"),
    postgresql_partition_by="HASH (tenant_id, user_id)",
)
"""The words of the memories of users who have a graph, kept by triggers on `memories`; with each word the memory's
place and how many words it has."""

user_graphs = Table(
    "user_graphs",
    metadata,
    Column("tenant_id", Text, primary_key=True),
    Column("user_id", Text, primary_key=True),
    Column("part", SmallInteger, nullable=False),
    Column("number", SmallInteger, nullable=False),
    ForeignKeyConstraint(["tenant_id", "user_id"], ["users.tenant_id", "users.user_id"], ondelete="CASCADE"),
    UniqueConstraint("part", "number"),
)
"""Who has which graph of a partition: nobody else gets it until they are erased."""

ingests = Table(
    "ingests",
    metadata,
    Column("tenant_id", Text, primary_key=True),
    Column("ingest_id", Uuid, primary_key=True),
    Column("user_id", Text, nullable=False),
    Column("session", Text, nullable=False),
    Column("created_at", Moment, nullable=False),
    Column("finished_at", Moment),
    Column("turns", Integer, nullable=False),
    Column("taken", Integer, nullable=False, server_default=text("0")),
    Column("passed_over", Integer, nullable=False, server_default=text("0")),
    Column("memories", Integer, nullable=False, server_default=text("0")),
    Column("deduplicated", Integer, nullable=False, server_default=text("0")),
    Column("superseded", Integer, nullable=False, server_default=text("0")),
    Column("set_apart", Integer, nullable=False, server_default=text("0")),
    Column("job", BigInteger),
    Column("first_turn", Integer),
    _user_key(),
    Index("ix_ingests_user", "tenant_id", "user_id", "created_at"),
    Index("ix_ingests_finished", "tenant_id", "finished_at", postgresql_where=text("finished_at IS NOT NULL")),
)
"""Conversations that were handed in. `turns`: how many; `taken`: how many of them were dealt with so far; the other
counts tell what became of those. `job`: its number in the queue of this database.
`first_turn`: which turn of its conversation it begins with, once that was looked at."""

utterances = Table(
    "utterances",
    metadata,
    Column("tenant_id", Text, primary_key=True),
    Column("ingest_id", Uuid, primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("user_id", Text, nullable=False),
    Column("role", Text, nullable=False),
    Column("speaker", Text),
    Column("content", Text, nullable=False),
    Column("said_at", Moment, nullable=False),
    ForeignKeyConstraint(["tenant_id", "ingest_id"], ["ingests.tenant_id", "ingests.ingest_id"]),
    _user_key(),
    Index("ix_utterances_user", "tenant_id", "user_id"),
)
"""Turns of ingests that are still to be remembered; each goes with the transaction that remembers it."""

quarantine = Table(
    "quarantine",
    metadata,
    Column("tenant_id", Text, primary_key=True),
    Column("item_id", Uuid, primary_key=True),
    Column("user_id", Text, nullable=False),
    Column("type", Text, nullable=False),
    Column("content", Text, nullable=False),
    Column("confidence", Float, nullable=False),
    Column("source", Text, nullable=False),
    Column("quote", Text),
    Column("reason", Text, nullable=False),
    Column("valid_from", Moment, nullable=False),
    Column("created_at", Moment, nullable=False),
    _user_key(),
    Index("ix_quarantine_user", "tenant_id", "user_id", "created_at"),
    Index("ix_quarantine_created", "tenant_id", "created_at"),
)
"""Statements that did not pass the write gate (`app.domain.gate`)."""

recalls = Table(
    "recalls",
    metadata,
    Column("tenant_id", Text, primary_key=True),
    Column("recall_id", Uuid, primary_key=True),
    Column("user_id", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("query", Text, nullable=False),
    Column("asked_at", Moment, nullable=False),
    Column("as_of", Moment, nullable=False),
    Column("asked", JSONB, nullable=False),
    Column("space", Text, nullable=False),
    Column("is_degraded", Boolean, nullable=False),
    Column("shown", JSONB, nullable=False),
    Column("helpful", ARRAY(Text)),
    _user_key(),
    Index("ix_recalls_user", "tenant_id", "user_id", "asked_at"),
    Index("ix_recalls_asked", "tenant_id", "asked_at"),
)
"""What memories were recalled for what, with what each was ranked by. `helpful`: which of them were, once somebody has
said so."""

IS_DRAWN = "(policy #>> '{order,is_drawn}') = 'true'"
"""Of sets whose order was drawn evenly (`app.domain.ordering`)."""

hypothesis_sets = Table(
    "hypothesis_sets",
    metadata,
    Column("tenant_id", Text, primary_key=True),
    Column("set_id", Uuid, primary_key=True),
    Column("user_id", Text, nullable=False),
    Column("input_text", Text, nullable=False),
    Column("intent", Text),
    Column("decision", Text, nullable=False),
    Column("clarification_need", Float, nullable=False),
    Column("hypotheses", JSONB, nullable=False),
    Column("source", Text, nullable=False),
    Column("is_degraded", Boolean, nullable=False),
    Column("calibration_version", Integer, nullable=False),
    Column("created_at", Moment, nullable=False),
    Column("outcome", Text),
    Column("chosen_id", Text),
    Column("chosen_slots", JSONB),
    Column("answer", Text),
    Column("rejected_ids", ARRAY(Text), nullable=False, server_default=text("'{}'::text[]")),
    Column("answered_at", Moment),
    Column("model", Text),
    Column("prompt_version", Text),
    Column("adapter", Text),
    Column("policy", JSONB),
    Column("belief", JSONB),
    Column("basis", JSONB),
    _user_key(),
    Index("ix_hypothesis_sets_user", "tenant_id", "user_id", "created_at"),
    Index("ix_hypothesis_sets_created", "tenant_id", "created_at"),
    Index(
        "ix_hypothesis_sets_answered",
        "tenant_id",
        "intent",
        "answered_at",
        postgresql_where=text("outcome IS NOT NULL"),
    ),
    Index("ix_hypothesis_sets_drawn", "tenant_id", "created_at", postgresql_where=text(IS_DRAWN)),
)

executions = Table(
    "executions",
    metadata,
    Column("tenant_id", Text, primary_key=True),
    Column("execution_id", Uuid, primary_key=True),
    Column("user_id", Text, nullable=False),
    Column("set_id", Uuid),
    Column("hypothesis_id", Text),
    Column("custom_answer", Text),
    Column("input_text", Text, nullable=False),
    Column("request", Text, nullable=False),
    Column("prompt", Text, nullable=False),
    Column("tokens", Integer, nullable=False),
    Column("memories_used", JSONB, nullable=False),
    Column("created_at", Moment, nullable=False),
    Column("is_success", Boolean),
    Column("rating", Float),
    _user_key(),
    Index("ix_executions_user", "tenant_id", "user_id", "created_at"),
)

signals = Table(
    "signals",
    metadata,
    Column("tenant_id", Text, primary_key=True),
    Column("signal_id", Uuid, primary_key=True),
    Column("user_id", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("set_id", Uuid),
    Column("execution_id", Uuid),
    Column("body", JSONB, nullable=False),
    Column("created_at", Moment, nullable=False),
    _user_key(),
    Index("ix_signals_user", "tenant_id", "user_id", "created_at"),
)

calibrations = Table(
    "calibrations",
    metadata,
    Column("tenant_id", Text, primary_key=True),
    Column("source", Text, primary_key=True),
    Column("version", Integer, primary_key=True),
    Column("weights", JSONB, nullable=False),
    Column("none_score", Float, nullable=False),
    Column("outcomes", Integer, nullable=False),
    Column("fitted_at", Moment, nullable=False),
    Column("form", Integer, nullable=False, server_default=text("1")),
    Column("prior", Integer, nullable=False, server_default=text("0")),
    Column("examination", ARRAY(Float)),
    ForeignKeyConstraint(["tenant_id"], ["tenants.tenant_id"]),
)

shared_priors = Table(
    "shared_priors",
    metadata,
    Column("source", Text, primary_key=True),
    Column("version", Integer, primary_key=True),
    Column("form", Integer, nullable=False),
    Column("weights", JSONB, nullable=False),
    Column("none_score", Float, nullable=False),
    Column("tenants", Integer, nullable=False),
    Column("fitted_at", Moment, nullable=False),
)
"""Of no tenant: averages over several of them. Written in transactions that pool, and in no other."""

training_runs = Table(
    "training_runs",
    metadata,
    Column("tenant_id", Text, primary_key=True),
    Column("run_id", Text, primary_key=True),
    Column("method", Text, nullable=False),
    Column("base_model", Text, nullable=False),
    Column("folder", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("created_at", Moment, nullable=False),
    Column("finished_at", Moment),
    Column("metadata", JSONB, nullable=False, server_default=text("'{}'::jsonb")),
    Column("judgement", JSONB),
    Column("user_keys", ARRAY(Text), nullable=False, server_default=text("'{}'::text[]")),
    Column("erased_users", Integer, nullable=False, server_default=text("0")),
    ForeignKeyConstraint(["tenant_id"], ["tenants.tenant_id"]),
)
"""`user_keys`: the keyed hashes of the users whose samples it was trained on (`app.domain.datasets.SplitKey`)."""

deployments = Table(
    "deployments",
    metadata,
    Column("tenant_id", Text, primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("action", Text, nullable=False),
    Column("adapter", Text, nullable=False),
    Column("stack", ARRAY(Text), nullable=False),
    Column("candidate", Text),
    Column("share", Float, nullable=False),
    Column("reason", Text, nullable=False),
    Column("deployed_at", Moment, nullable=False),
    ForeignKeyConstraint(["tenant_id"], ["tenants.tenant_id"]),
)
"""Every change of which adapter answers whom; the last row of a tenant is what holds."""

space_trials = Table(
    "space_trials",
    metadata,
    Column("tenant_id", Text, primary_key=True),
    Column("trial_id", Text, primary_key=True),
    Column("endpoint", Text, nullable=False),
    Column("space", Text, nullable=False),
    Column("dimension", Integer, nullable=False),
    Column("serving_space", Text, nullable=False),
    Column("share", Float, nullable=False),
    Column("status", Text, nullable=False),
    Column("created_at", Moment, nullable=False),
    Column("started_at", Moment),
    Column("ended_at", Moment),
    CheckConstraint("status IN ('filling', 'running', 'ended')", name="status"),
    ForeignKeyConstraint(["tenant_id"], ["tenants.tenant_id"]),
    Index("uq_space_trials_open", "tenant_id", unique=True, postgresql_where=text("status <> 'ended'")),
)

embedding_spaces = Table(
    "embedding_spaces",
    metadata,
    Column("number", Integer, Identity(always=True), primary_key=True),
    Column("space_id", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("revision", Text, nullable=False),
    Column("dimension", Integer, nullable=False),
    Column("pooling", Text, nullable=False),
    Column("is_normalised", Boolean, nullable=False),
    Column("prefix", Text, nullable=False, server_default=text("''")),
    Column("storage", Text, nullable=False),
    Column("endpoint", Text),
    Column("created_at", Moment, nullable=False, server_default=text("now()")),
    Column("told", Text),
    Column("fingerprint", VECTOR),
    CheckConstraint("storage IN ('vector', 'halfvec')", name="storage"),
    UniqueConstraint("space_id"),
)
"""Of no tenant: it holds nothing of anybody. `number` names the tables of a space; it is recognised by
what its model called its own space when it was first used (`told`) and by the vector of a text (`fingerprint`)."""

tenant_spaces = Table(
    "tenant_spaces",
    metadata,
    Column("tenant_id", Text, primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("role", Text, nullable=False),
    Column("since", Moment, nullable=False, server_default=text("now()")),
    CheckConstraint("role IN ('serving', 'filling', 'filled', 'kept', 'trial', 'dropped')", name="role"),
    ForeignKeyConstraint(["tenant_id"], ["tenants.tenant_id"]),
    ForeignKeyConstraint(["number"], ["embedding_spaces.number"]),
    Index("uq_tenant_spaces_serving", "tenant_id", unique=True, postgresql_where=text("role = 'serving'")),
)

space_backlog = Table(
    "space_backlog",
    metadata,
    Column("tenant_id", Text, primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("kind", Text, primary_key=True),
    Column("user_id", Text, primary_key=True),
    Column("item_id", Uuid, primary_key=True),
    ForeignKeyConstraint(
        ["tenant_id", "number"], ["tenant_spaces.tenant_id", "tenant_spaces.number"], ondelete="CASCADE"
    ),
)
"""What a space lacks that is written to: noted by triggers on `memories` and `hypothesis_sets`."""

declare_job_tables(metadata)
facet_evidence, facet_priors = declare_persona_tables(metadata)

USER_TABLES = (
    facet_evidence,
    facet_changes,
    signals,
    executions,
    hypothesis_sets,
    recalls,
    quarantine,
    utterances,
    ingests,
    memories,
    users,
)
"""Every table that holds rows of a user, in an order in which they can be deleted; vectors go with
them."""
