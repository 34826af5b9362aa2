"""The statements of a search: what is known of all of a user's memories for a query, then the memories picked of them.

The first answers with one row of packed arrays, since decoding thousands of rows costs more than finding them. For an
ordinary user it is about every memory that may be found, and where these are few it brings them along, so that nothing
is left to ask; for one who has a graph, about the nearest by it and those that hold a word of the query, and whether
they may be found is seen when they are picked. Arguments $1 to $7 are those of `memory_search`: vector, words, tenant,
user, moment, types, tags.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from app.domain.relevance import Field
from app.domain.spaces import Role, StoredSpace
from app.store.memory_search import HOLDS, MEMORY, OF_USER, held_as_known, that_hold

AT_ONCE = 60
"""Up to so many memories come with the first statement."""


def _packing(rows: str, prefix: str = "") -> str:
    """What is known of each of some rows, in arrays."""
    return f"""(SELECT string_agg(uuid_send(memory_id), ''::bytea) FROM {rows}) AS {prefix}ids,
       (SELECT string_agg(int8send(coalesce(place, -1)), ''::bytea) FROM {rows}) AS {prefix}places,
       (SELECT string_agg(int2send(least(words, 9999)::int2), ''::bytea) FROM {rows}) AS {prefix}words,
       (SELECT string_agg(float4send(coalesce(distance, 'NaN')::float4), ''::bytea) FROM {rows}) AS {prefix}distances"""


_COMPARED = (
    "m.memory_id, m.place, cardinality(m.terms) AS words, v.embedding <=> query.vector AS distance, m.valid_from"
)
"""What is known of a memory beside its vector."""


def _with_vectors(space: StoredSpace) -> str:
    """Every memory, beside it its vector where it has one."""
    return f"""FROM query, memories m
    LEFT JOIN {space.memory_table} v
           ON v.tenant_id = m.tenant_id AND v.user_id = m.user_id AND v.memory_id = m.memory_id"""


def _hours(rows: str) -> str:
    return f"(SELECT string_agg(int4send((extract(epoch FROM valid_from) / 3600)::int4), ''::bytea) FROM {rows})"


def _query(space: StoredSpace, role: Role) -> str:
    return f"""query AS MATERIALIZED (
    SELECT in_space($1::float4[]::vector, $3::text, {space.number}, '{role}')::{space.column_type} AS vector,
           tsvector_to_array(to_tsvector('english'::regconfig, $2::text)) AS terms
)"""


def _read(space: StoredSpace, wanted: str, holds: str) -> str:
    """Where the memories whose ids are wanted are read that may be found, each with its vector if it has one."""
    return f"""query, {wanted} AS wanted(memory_id)
CROSS JOIN LATERAL (
    SELECT * FROM memories m WHERE {OF_USER} AND m.memory_id = wanted.memory_id AND {holds} LIMIT 1
) AS m
LEFT JOIN LATERAL (
    SELECT v.embedding FROM {space.memory_table} v
    WHERE v.tenant_id = $3::text AND v.user_id = $4::text AND v.memory_id = wanted.memory_id LIMIT 1
) AS v ON true"""


_ROW = f"{MEMORY}, 1 - (v.embedding <=> query.vector), vector_send(v.embedding::vector)"
"""A memory, its cosine and its vector."""


@cache
def exact_field(space: StoredSpace, role: Role, *, is_known: bool = False, is_dated: bool = False) -> str:
    """Every memory that may be found: its distance (NaN without a vector), place and number of words; and which of them
    hold which word of the query, by position. `lacking`: how many have no vector. `rows`: what `picked` gives of all of
    them, where they are at most AT_ONCE. With `is_known`, by what was known at $8; with `is_dated`, also when each
    became true."""
    holds = held_as_known(8) if is_known else HOLDS
    few = f"(SELECT memory_id FROM mine WHERE (SELECT count(*) FROM mine) <= {AT_ONCE})"
    return f"""
WITH {_query(space, role)}, mine AS MATERIALIZED (
    SELECT {_COMPARED},
           CASE WHEN m.terms && query.terms THEN m.terms END AS terms, (row_number() OVER ())::int4 - 1 AS at
    {_with_vectors(space)}
    WHERE {OF_USER} AND {holds}
), hits AS MATERIALIZED (
    SELECT at, (ord - 1)::int2 AS term
    FROM mine, query, unnest(query.terms) WITH ORDINALITY AS asked(term, ord)
    WHERE mine.terms IS NOT NULL AND asked.term = ANY(mine.terms)
)
SELECT {_packing("mine")},
       {_hours("mine") if is_dated else "NULL"} AS hours,
       (SELECT string_agg(int4send(at), ''::bytea) FROM hits) AS hit_at,
       (SELECT string_agg(int2send(term), ''::bytea) FROM hits) AS hit_term,
       cardinality(query.terms) AS terms,
       (SELECT count(*) FROM mine WHERE distance IS NULL) AS lacking,
       (SELECT array_agg(ROW({_ROW})) FROM {_read(space, few, holds)}) AS rows,
       (SELECT greatest(u.graph, 0) FROM users u WHERE u.tenant_id = $3::text AND u.user_id = $4::text) AS graph
FROM query
"""


def _dated(space: StoredSpace) -> str:
    return f""", dated AS MATERIALIZED (
    SELECT {_COMPARED}
    {_with_vectors(space)}
    WHERE {OF_USER} AND {HOLDS} AND EXISTS (
        SELECT FROM unnest($9::timestamptz[], $10::timestamptz[]) AS span(start, over)
        WHERE m.valid_from >= span.start AND m.valid_from < span.over
    )
    ORDER BY distance, m.memory_id LIMIT $8::int
)"""


@cache
def graph_field(space: StoredSpace, graph: int, *, is_dated: bool = False) -> str:
    """The $8 nearest by the user's graph, and for each word of the query all memories that hold it: id, place and
    number of words of each, the second kind with the word. With `is_dated`, also the $8 nearest of those that became
    true in one of the times from $9 to $10, and when. To be planned and run under GRAPH_SETTINGS."""
    dated, of_dated = ("", "") if not is_dated else (_dated(space), f",\n       {_packing('dated', 'dated_')}")
    return f"""
WITH {_query(space, "serving")}, mine AS MATERIALIZED (
    SELECT m.memory_id, m.place, cardinality(m.terms) AS words, near.distance
    FROM (
        SELECT v.memory_id, v.embedding <=> (SELECT vector FROM query) AS distance
        FROM {space.memory_table} v {that_hold("v")}
        WHERE v.graph = {graph:d} AND v.tenant_id = $3::text AND v.user_id = $4::text AND $1::float4[] IS NOT NULL
        ORDER BY v.embedding <=> (SELECT vector FROM query) LIMIT $8::int
    ) AS near
    CROSS JOIN LATERAL (SELECT * FROM memories m WHERE {OF_USER} AND m.memory_id = near.memory_id LIMIT 1) AS m
), hits AS MATERIALIZED (
    SELECT w.memory_id, w.place, w.words, (asked.ord - 1)::int2 AS term
    FROM query, unnest(query.terms) WITH ORDINALITY AS asked(term, ord)
    JOIN memory_words w ON w.tenant_id = $3::text AND w.user_id = $4::text AND w.term = asked.term
){dated}
SELECT {_packing("mine")}{of_dated},
       {_hours("dated") if is_dated else "NULL"} AS dated_hours,
       (SELECT string_agg(uuid_send(memory_id), ''::bytea) FROM hits) AS hit_ids,
       (SELECT string_agg(int8send(coalesce(place, -1)), ''::bytea) FROM hits) AS hit_places,
       (SELECT string_agg(int2send(words), ''::bytea) FROM hits) AS hit_words,
       (SELECT string_agg(int2send(term), ''::bytea) FROM hits) AS hit_term,
       cardinality(query.terms) AS terms,
       (SELECT count(*) FROM mine) AS near,
       (SELECT u.memories FROM users u WHERE u.tenant_id = $3::text AND u.user_id = $4::text) AS memories,
       (SELECT greatest(u.graph, 0) FROM users u WHERE u.tenant_id = $3::text AND u.user_id = $4::text) AS graph
FROM query
"""


@cache
def picked(space: StoredSpace, role: Role, *, is_known: bool = False) -> str:
    """Those of the memories $8 that may be found, with the cosine and the vector of each that has one. With `is_known`,
    by what was known at $9."""
    holds = held_as_known(9) if is_known else HOLDS
    return f"""
WITH {_query(space, role)}
SELECT {_ROW}
FROM {_read(space, "unnest($8::uuid[])", holds)}
"""


@dataclass(frozen=True)
class Looked:
    """What is known of a user's memories for a query, and their ids (16 bytes each), by position; whether it is about
    every memory that may be found; and where these are few, the rows that `picked` would give of them, in no order."""

    field: Field
    ids: NDArray[np.void]
    is_whole: bool
    rows: Sequence[Sequence[Any]] | None = None

    def id_at(self, position: int) -> UUID:
        """The id of one of them."""
        return UUID(bytes=self.ids[position].tobytes())


def _packed(row: Any, name: str, kind: str) -> NDArray[Any]:
    """An array that the database packed, big-endian, in this machine's order."""
    held = np.frombuffer(row[name] or b"", dtype=kind)
    return held if kind == "V16" else held.astype(held.dtype.newbyteorder("="))


def looked(row: Any) -> Looked:
    """The row of `exact_field`."""
    ids = _packed(row, "ids", "V16")
    holds = np.zeros((row["terms"], len(ids)), bool)
    holds[_packed(row, "hit_term", ">i2"), _packed(row, "hit_at", ">i4")] = True
    field = Field(
        places=_packed(row, "places", ">i8"),
        words=_packed(row, "words", ">i2").astype(float),
        holds=holds,
        cosines=1.0 - _packed(row, "distances", ">f4").astype(float),
        found=holds.sum(axis=1).astype(float),
        memories=len(ids),
        hours=None if row["hours"] is None else _packed(row, "hours", ">i4").astype(float),
    )
    return Looked(field, ids, is_whole=True, rows=row["rows"])


def looked_by_graph(row: Any) -> Looked:
    """The row of `graph_field`, the nearest and those with words, and those of a time, as one: the first eight
    bytes of an id tell memories apart."""
    parts = ("", "hit_", "dated_") if row["dated_hours"] is not None else ("", "hit_")
    ids, places, words = (
        np.concatenate([_packed(row, f"{part}{name}", kind) for part in parts])
        for name, kind in (("ids", "V16"), ("places", ">i8"), ("words", ">i2"))
    )
    _, first, at = np.unique(ids.view("i8")[::2], return_index=True, return_inverse=True)
    near, terms = int(row["near"]), _packed(row, "hit_term", ">i2")
    hit, dated = at[near : near + len(terms)], at[near + len(terms) :]
    holds = np.zeros((row["terms"], len(first)), bool)
    holds[terms, hit] = True
    cosines = np.full(len(first), np.nan)
    cosines[at[:near]] = 1.0 - _packed(row, "distances", ">f4")
    hours = None
    if len(dated):
        cosines[dated] = 1.0 - _packed(row, "dated_distances", ">f4")
        hours = np.full(len(first), np.nan)
        hours[dated] = _packed(row, "dated_hours", ">i4")
    field = Field(
        places=places[first],
        words=words[first].astype(float),
        holds=holds,
        cosines=cosines,
        found=np.bincount(terms, minlength=row["terms"]).astype(float),
        memories=int(row["memories"]),
        hours=hours,
    )
    return Looked(field, ids[first], is_whole=False)
