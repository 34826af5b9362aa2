"""Near-duplicates are left out where every part is alike, and only there."""

from dataclasses import replace

from fine_tuning.embedding.duplicates import SeenPairs
from fine_tuning.embedding.pairs import Pair

LONG = " ".join(f"word{number}" for number in range(60))
OTHER = " ".join(f"else{number}" for number in range(60))
PAIR = Pair(f"what of {LONG}", f"this: {LONG}", (OTHER,))


def test_the_same_pair_is_a_duplicate() -> None:
    seen = SeenPairs(10)
    assert [seen.look(PAIR), seen.look(PAIR)] == [None, "duplicate"]


def test_a_word_more_makes_a_near_duplicate() -> None:
    seen = SeenPairs(10)
    seen.look(PAIR)
    assert (
        seen.look(replace(PAIR, anchor=f"{PAIR.anchor} please", positive=f"{PAIR.positive} indeed")) == "near_duplicate"
    )


def test_pairs_that_differ_in_one_part_stay() -> None:
    seen = SeenPairs(10)
    others = [replace(PAIR, anchor=OTHER), replace(PAIR, positive=OTHER + " x"), replace(PAIR, negatives=(LONG,))]
    assert [seen.look(pair) for pair in (PAIR, *others)] == [None] * 4


def test_short_pairs_are_alike_only_when_equal() -> None:
    seen = SeenPairs(10)
    assert [seen.look(Pair("hello", word)) for word in ("world", "there", "world")] == [None, None, "duplicate"]


def test_few_are_missed_and_none_invented_among_many() -> None:
    seen = SeenPairs(2000)
    texts = [" ".join(f"w{number}x{place}" for place in range(30)) for number in range(1000)]
    assert [seen.look(Pair(f"ask {text}", text)) for text in texts] == [None] * 1000
    found = [seen.look(Pair(f"ask {text} now", f"{text} then")) for text in texts]
    assert found.count("near_duplicate") >= 950
