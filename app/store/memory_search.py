"""The statements that find memories for a query: exactly, or by the graph of a user who has very many.

Both answer alike, each in one statement, to which the graph adds two that say how it is planned: up to $9 nearest
memories, up to $9 by words, and up to $9 that name a value for one of $8, with the graph that the user has by now. They
are written as text because they read best as what they are. One plan serves all users (`app.store.engine`) and takes
each for an average one, so every look-up that has to go by key is fenced with LIMIT 1.
"""

from functools import cache
from typing import Any

from app.domain.spaces import Role, StoredSpace
from app.store.engine import Statements

GRAPH_SETTINGS = (
    "SET LOCAL enable_sort = off; SET LOCAL hnsw.iterative_scan = relaxed_order; "
    "SET LOCAL hnsw.ef_search = 400; SET LOCAL hnsw.max_scan_tuples = 5000"
)
"""For an average user sorting is cheaper than a graph, so sorting is off: then the plan takes the graph, which is in
order already. A scan goes on until enough memories pass the filters, or ends after so many."""

GRAPH_SETTINGS_END = "SET LOCAL enable_sort = on"


async def fetch_by_graph(statements: Statements, query: str, *arguments: Any) -> list[Any]:
    """Rows of a statement that is planned and run under GRAPH_SETTINGS. Raises as `Statements.fetch`."""
    await statements.execute(GRAPH_SETTINGS)
    rows = await statements.fetch(query, *arguments)
    await statements.execute(GRAPH_SETTINGS_END)
    return rows


FIELDS = (
    "memory_id",
    "user_id",
    "type",
    "content",
    "confidence",
    "tags",
    "source",
    "created_at",
    "updated_at",
    "valid_from",
    "valid_to",
    "expires_at",
    "superseded_by",
    "version_of",
    "session",
    "turn",
    "speaker",
    "place",
    "quote",
    "proof_count",
    "is_set_right",
    "later_sources",
    "later_quotes",
)
"""The columns of a memory, in the order in which its value has them; the last two are its later evidence, side by side,
a quote that is lacking as an empty one."""

MEMORY = ", ".join(f"m.{name}" for name in FIELDS)
OF_USER = "m.tenant_id = $3::text AND m.user_id = $4::text"
_PASSES = """(m.expires_at IS NULL OR m.expires_at > $5::timestamptz)
      AND ($6::text[] IS NULL OR m.type = ANY($6::text[]))
      AND ($7::text[] IS NULL OR m.tags @> $7::text[])"""
HOLDS = f"""m.valid_from <= $5::timestamptz AND (m.valid_to IS NULL OR m.valid_to > $5::timestamptz)
      AND {_PASSES}"""


def held_as_known(moment: int) -> str:
    """As HOLDS, by what was known at a moment ($`moment`): what was learned later is left out, and an end that was
    learned later is what it was taken to be then."""
    known = f"${moment}::timestamptz"
    return f"""m.valid_from <= $5::timestamptz AND coalesce(m.known_from, m.created_at) <= {known}
      AND coalesce((
          SELECT coalesce(told, 'infinity') FROM unnest(m.ended_at, m.told_to) AS was(at, told)
          WHERE was.at > {known} ORDER BY was.at LIMIT 1
      ), m.valid_to, 'infinity') > $5::timestamptz AND {_PASSES}"""


NEWEST = f"""
SELECT {MEMORY} FROM memories m
WHERE m.tenant_id = $1::text AND m.user_id = $2::text AND m.type = ANY($3::text[]) AND m.version_of IS NULL
  AND m.superseded_by IS NULL AND m.valid_from <= $4::timestamptz
  AND (m.valid_to IS NULL OR m.valid_to > $4::timestamptz)
  AND (m.expires_at IS NULL OR m.expires_at > $4::timestamptz)
ORDER BY m.created_at DESC, m.memory_id DESC
LIMIT $5::int
"""
"""A user's memories of some types that hold, newest first."""


@cache
def exact(space: StoredSpace, role: Role) -> str:
    """The question answered by comparing with every memory of the user. In the space of a trial a memory that has no
    vector comes first of all, without one: then this is no answer."""
    near = "WHERE distance IS NOT NULL ORDER BY distance, memory_id"
    if role == "trial":
        near = "ORDER BY distance NULLS FIRST, memory_id"
    return _candidates(
        space,
        role,
        hits=f"""mine AS MATERIALIZED (
    SELECT m.memory_id, m.valid_from, v.embedding <=> query.vector AS distance,
           m.slots && $8::text[] AND m.type <> 'HISTORY' AS is_slotted,
           CASE WHEN m.terms && query.terms THEN m.terms END AS terms
    FROM query, memories m
    LEFT JOIN {space.memory_table} v
           ON v.tenant_id = m.tenant_id AND v.user_id = m.user_id AND v.memory_id = m.memory_id
    WHERE {OF_USER} AND {HOLDS}
), hits AS MATERIALIZED (
    SELECT mine.memory_id, term FROM mine, query, unnest(query.terms) AS term
    WHERE mine.terms IS NOT NULL AND term = ANY(mine.terms)
)""",
        memories="(SELECT count(*) FROM mine)",
        near=f"SELECT memory_id FROM mine {near} LIMIT $9::int",
        worded="""SELECT memory_id FROM hits JOIN weights USING (term)
    GROUP BY memory_id ORDER BY sum(weight) DESC, memory_id LIMIT $9::int""",
        slotted="SELECT memory_id FROM mine WHERE is_slotted ORDER BY valid_from DESC, memory_id LIMIT $9::int",
    )


@cache
def by_graph(space: StoredSpace, graph: int) -> str:
    """The question for users whose vectors are in the graph of that number: the planner finds an index that holds some
    rows only where the statement names them in so many words. To be planned and run under GRAPH_SETTINGS."""
    return _candidates(
        space,
        "serving",
        hits="""hits AS MATERIALIZED (
    SELECT w.memory_id, w.term
    FROM query, unnest(query.terms) AS asked
    JOIN memory_words w ON w.tenant_id = $3::text AND w.user_id = $4::text AND w.term = asked
)""",
        memories="(SELECT u.memories FROM users u WHERE u.tenant_id = $3::text AND u.user_id = $4::text)",
        near=f"""SELECT v.memory_id FROM {space.memory_table} v {that_hold("v")}
    WHERE v.graph = {graph:d} AND v.tenant_id = $3::text AND v.user_id = $4::text AND $1::float4[] IS NOT NULL
    ORDER BY v.embedding <=> (SELECT vector FROM query) LIMIT $9::int""",
        worded=f"""SELECT ranked.memory_id
    FROM (
        SELECT memory_id, sum(weight) AS weight FROM hits JOIN weights USING (term)
        GROUP BY memory_id ORDER BY weight DESC, memory_id
    ) AS ranked {that_hold("ranked")}
    ORDER BY ranked.weight DESC, ranked.memory_id LIMIT $9::int""",
        slotted=f"""SELECT m.memory_id FROM memories m
    WHERE cardinality($8::text[]) > 0 AND {OF_USER} AND m.slots <> '{{}}' AND m.slots && $8::text[]
      AND m.type <> 'HISTORY' AND {HOLDS}
    ORDER BY m.valid_from DESC, m.memory_id LIMIT $9::int""",
    )


def _candidates(space: StoredSpace, role: Role, hits: str, memories: str, near: str, worded: str, slotted: str) -> str:
    """The whole question out of its parts: the query's words found (memory_id, term), how many memories the user has,
    and the memories that each arm picks. `weights` are the words' inverse document frequencies among the user's
    memories (Robertson and Spärck Jones 1976), `lexical` a memory's share of the weight of all the query's words.
    Nothing is compared where the tenant does not use the space in that role: the database refuses."""
    return f"""
WITH query AS MATERIALIZED (
    SELECT in_space($1::float4[]::vector, $3::text, {space.number}, '{role}')::{space.column_type} AS vector,
           tsvector_to_array(to_tsvector('english'::regconfig, $2::text)) AS terms
), {hits}, weights AS MATERIALIZED (
    SELECT term, ln(1 + ({memories} - found + 0.5)::float8 / (found + 0.5)) AS weight
    FROM (
        SELECT term, count(hits.term) AS found
        FROM (SELECT unnest(terms) AS term FROM query) AS asked LEFT JOIN hits USING (term) GROUP BY term
    ) AS counted
), near AS MATERIALIZED (
    {near}
), worded AS (
    {worded}
), slotted AS (
    {slotted}
), picked AS (
    SELECT memory_id FROM near UNION SELECT memory_id FROM worded UNION SELECT memory_id FROM slotted
)
SELECT {MEMORY}, coalesce(1 - (v.embedding <=> query.vector), 0) AS cosine,
       coalesce((SELECT sum(weight) FILTER (WHERE term = ANY(m.terms)) / sum(weight) FROM weights), 0) AS lexical,
       vector_send(v.embedding::vector) AS vector,
       (SELECT greatest(u.graph, 0) FROM users u WHERE u.tenant_id = $3::text AND u.user_id = $4::text) AS graph,
       (SELECT count(*) FROM near) AS near
FROM query, picked
CROSS JOIN LATERAL (SELECT * FROM memories m WHERE {OF_USER} AND m.memory_id = picked.memory_id LIMIT 1) AS m
LEFT JOIN LATERAL (
    SELECT v.embedding FROM {space.memory_table} v
    WHERE v.tenant_id = $3::text AND v.user_id = $4::text AND v.memory_id = picked.memory_id LIMIT 1
) AS v ON true
"""


def that_hold(found: str) -> str:
    """Those of the memories `found` that may be found: looked up one after the other, as long as more are wanted."""
    return f"""CROSS JOIN LATERAL (
        SELECT FROM memories m WHERE {OF_USER} AND m.memory_id = {found}.memory_id AND {HOLDS} LIMIT 1
    ) AS holds"""


@cache
def nearest(space: StoredSpace, *, is_over: bool = False, graph: int = 0) -> str:
    """For each draft ($4 types, $5 vectors) the $6 nearest memories of its type that hold at $3 or later, or that were
    replaced or are over by then, with a cosine of at least $7; of user $2 of tenant $1. With a number by the user's
    graph, under GRAPH_SETTINGS."""
    state = "n.superseded_by IS NULL AND (n.valid_to IS NULL OR n.valid_to > $3::timestamptz)"
    if is_over:
        state = f"NOT ({state})"
    wanted = f"""n.tenant_id = $1::text AND n.user_id = $2::text AND n.type = draft.type AND n.version_of IS NULL
      AND {state} AND (n.expires_at IS NULL OR n.expires_at > $3::timestamptz)"""
    of_user = "v.tenant_id = $1::text AND v.user_id = $2::text"
    source = f"""memories n JOIN {space.memory_table} v ON {of_user} AND v.memory_id = n.memory_id
    WHERE {wanted}"""
    if graph:
        source = f"""{space.memory_table} v
    CROSS JOIN LATERAL (SELECT FROM memories n WHERE n.memory_id = v.memory_id AND {wanted} LIMIT 1) AS n
    WHERE v.graph = {graph:d} AND {of_user}"""
    return f"""
WITH draft AS MATERIALIZED (
    -- Read from text once; in the loop below it would be read again for each memory it is compared with.
    SELECT type, ordinal, in_space(vector::vector, $1::text, {space.number}, 'serving')::{space.column_type} AS vector
    FROM unnest($4::text[], $5::text[]) WITH ORDINALITY AS draft(type, vector, ordinal)
)
SELECT {MEMORY}, m.told_at, near.cosine, draft.ordinal
FROM draft
CROSS JOIN LATERAL (
    SELECT v.memory_id, 1 - (v.embedding <=> draft.vector) AS cosine
    FROM {source}
    ORDER BY v.embedding <=> draft.vector
    LIMIT $6::int
) AS near
CROSS JOIN LATERAL (
    SELECT * FROM memories m WHERE m.tenant_id = $1::text AND m.user_id = $2::text AND m.memory_id = near.memory_id
    LIMIT 1
) AS m
WHERE near.cosine >= $7::float8
ORDER BY draft.ordinal, near.cosine DESC, m.memory_id
"""
