"""Where a user is never changes, and splitting moves nobody but to the new half."""

import hypothesis.strategies as st
from hypothesis import given

from app.domain.shards import WHOLE, Place, shard_of

NAMES = st.text(min_size=1, max_size=20)
COUNTS = st.integers(1, 12)


def test_users_are_where_earlier_releases_put_them() -> None:
    assert shard_of("acme", "ada", 1_000_000) == 361939
    assert shard_of("acme", "Ädä 🙂", 1_000_000) == 338641


@given(NAMES, COUNTS, COUNTS)
def test_a_place_may_become_those_its_users_are_split_over(user: str, count: int, factor: int) -> None:
    before = Place(shard_of("acme", user, count), count)
    after = Place(shard_of("acme", user, count * factor), count * factor)

    assert before.may_become(after)
    assert WHOLE.may_become(after)


@given(COUNTS, COUNTS)
def test_a_place_may_become_no_other(index: int, count: int) -> None:
    place = Place(index % count, count)

    assert not Place((place.index + 1) % (count + 1), count + 1).may_become(place)
    assert not Place(place.index, 2 * count).may_become(place)
