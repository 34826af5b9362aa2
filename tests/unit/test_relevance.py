"""The arms of a search: what each sees, and how they are weighed."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from app.domain.memory import Draft, MemoryType
from app.domain.places import LOOSE, conversation_of, place_of, placed, unnumbered
from app.domain.relevance import ARMS, Field, Fusion, Said, arms, best, fusion_of, said_arms, weights_of
from app.domain.times import closeness, closenesses, spans

NOW = datetime(2023, 7, 10, 12, tzinfo=UTC)


def field(holds: list[list[int]], cosines: list[float] | None = None, places: list[int] | None = None) -> Field:
    """Memories of ten words each, by which word of the query each holds; all in one session."""
    found = np.array(holds, bool)
    count = found.shape[1]
    return Field(
        np.array(places if places is not None else [place_of(7, turn) for turn in range(count)]),
        np.full(count, 10.0),
        found,
        np.array(cosines or [0.0] * count),
        found.sum(axis=1).astype(float),
        count,
    )


def test_a_rare_word_counts_more_than_a_common_one() -> None:
    """Alone, the memory with the word that only it holds is before one with a word that all the others hold."""
    alone = [-1] * 6
    found = arms(field([[0, 1, 1, 1, 1, 1], [1, 0, 0, 0, 0, 0]], places=alone)).words
    assert found[0] > 2 * found[1] > 0


def test_words_of_the_turns_around_count_and_fade() -> None:
    """A turn is found by what was said just before or after it: less the further away, nothing in another session."""
    said = arms(field([[0, 0, 0, 0, 1, 0, 0, 0, 0]])).words
    assert said[3] == pytest.approx(said[5])
    assert said[4] > said[3] > said[2] > said[1] > said[0] == 0
    places = [place_of(7, 1), place_of(7, 2), place_of(8, 3), place_of(8, 1)]
    apart = arms(field([[0, 1, 0, 0]], places=places)).words
    assert apart[0] > 0
    assert apart[2] == apart[3] == 0


def test_lexical_arms_are_shares_of_what_the_query_can_score() -> None:
    """Where no memory holds most of the query's words the words say less, and the vectors decide."""
    whole = arms(field([[1, 0, 0, 0]] * 4, places=[-1] * 4)).words[0]
    quarter = arms(field([[1, 0, 0, 0], *[[0, 0, 0, 0]] * 3], places=[-1] * 4)).words[0]
    assert quarter < 0.3 * whole
    paraphrased = field([[1, 0, 0, 0], *[[0, 0, 0, 0]] * 5], [0.1, 0.8, 0.1, 0.1], [-1] * 4)
    assert best(arms(paraphrased).fused(Fusion()), 1) == [1]
    named = field([[1, 0, 0, 0]] * 4, [0.3, 0.6, 0.1, 0.1], [-1] * 4)
    assert best(arms(named).fused(Fusion()), 1) == [0]


def test_a_session_with_the_answer_lifts_its_turns() -> None:
    """Of two turns that say nothing themselves, the one whose session holds the words is before the other."""
    places = [place_of(1, 1), place_of(1, 20), place_of(2, 1)]
    found = arms(field([[1, 0, 0]], places=places))
    assert found.words[1] == found.words[2] == 0
    assert found.session[1] == found.session[0] > found.session[2]


def test_a_session_about_the_question_lifts_its_turns() -> None:
    """The same by meaning, in which what stands alone counts as a session of its own."""
    places = [place_of(1, 1), place_of(1, 20), place_of(2, 1), -1]
    found = arms(field([[0] * 4], [0.7, 0.1, 0.1, 0.4], places))
    assert found.session_cosine.tolist() == pytest.approx([0.6, 0.6, 0.0, 0.3])


def test_words_that_mislead_count_less() -> None:
    """Of facts that stand alone: where those with the query's words are far from it by meaning and others are near,
    the words' say shrinks; where they are the nearest, or nothing is known of any, they have all of it."""
    holds = [[1, 1, 0, 0, 0, 0]]
    told, misled, unknown = (
        arms(field(holds, cosines, [-1] * 6)).words
        for cosines in ([0.8, 0.7, 0.2, 0.1, 0.1, 0.1], [0.2, 0.1, 0.8, 0.7, 0.1, 0.1], [float("nan")] * 6)
    )
    assert told.tolist() == unknown.tolist()
    assert misled[0] == pytest.approx(told[0] * 0.1 / 1.3)
    assert best(arms(field(holds, [0.2, 0.1, 0.8, 0.7, 0.1, 0.1], [-1] * 6)).fused(Fusion()), 2) == [2, 3]
    turns = [place_of(7, turn) for turn in range(6)]
    near, far = (
        arms(field(holds, cosines, turns)).words
        for cosines in ([0.8, 0.7, 0.2, 0.1, 0.1, 0.1], [0.2, 0.1, 0.8, 0.7, 0.1, 0.1])
    )
    assert near.tolist() == far.tolist()


def test_weights_of_other_arms_do_not_hold() -> None:
    """Those that were learned when there were fewer arms."""
    assert fusion_of([1.0] * (len(ARMS) - 1)) == Fusion()
    assert fusion_of([1.0] * len(ARMS)).words == 1.0


def test_a_loose_conversation_has_neighbours_and_no_prior() -> None:
    """What nobody put into a session is found by its neighbours in time, and neither lifted nor measured by length."""
    loose = [LOOSE | place_of(1, turn) for turn in (1, 2, 9)]
    found = arms(field([[1, 0, 0]], places=loose))
    assert found.words[1] > 0 == found.words[2]
    assert found.session[2] == 0
    alone = arms(field([[1, 0, 0]], places=[-1] * 3))
    assert found.length.tolist() == alone.length.tolist()


def test_unknown_cosines_count_as_none() -> None:
    """A memory that no vector was compared with is no further than one at a cosine of 0."""
    found = arms(field([[1, 0]], [float("nan"), 0.0], [-1, -1]))
    assert found.cosine.tolist() == [0.0, 0.0]
    assert not np.isnan(found.fused(Fusion())).any()


def test_no_memories_and_no_words() -> None:
    """An empty query and an empty memory are no error."""
    nothing = Field(np.array([], np.int64), np.array([]), np.zeros((2, 0), bool), np.array([]), np.zeros(2), 0)
    assert arms(nothing).fused(Fusion()).tolist() == []
    wordless = arms(field([[0, 0]])).fused(Fusion())
    assert np.isfinite(wordless).all()


def test_who_is_asked_about_speaks() -> None:
    """The speaker named counts where not all are named; a question answers nothing."""
    said = [Said("Ada Byron", NOW, is_question=False), Said("Charles", NOW, is_question=True)]
    assert said_arms(said, "What did Ada build?", []).tolist() == [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]
    assert said_arms(said, "What did Ada and Charles build?", []).tolist() == [[0.0, 0.0, 0.0], [0.0, 1.0, 0.0]]
    assert said_arms(said, "What was built?", []).tolist() == [[0.0, 0.0, 0.0], [0.0, 1.0, 0.0]]


def test_arms_of_some_come_in_the_order_of_their_names() -> None:
    found = arms(field([[0, 0], [0, 1]]))
    told = found.at([1])
    assert told.shape == (1, 6)
    assert told[0].tolist() == [getattr(found, name)[1] for name in ARMS[:6]]
    assert fusion_of(weights_of(Fusion())) == Fusion()


def test_turns_follow_one_another() -> None:
    """A draft without a turn comes after the last of its session, one with a turn where it says, a fact alone."""
    drafts = [
        Draft(MemoryType.HISTORY, "a", session="s"),
        Draft(MemoryType.HISTORY, "b", session="s"),
        Draft(MemoryType.HISTORY, "c", session="t", turn=40),
        Draft(MemoryType.PROFILE, "d"),
        Draft(MemoryType.HISTORY, "e"),
    ]
    session = conversation_of(MemoryType.HISTORY, "s", "api", NOW)
    assert session is not None
    wanted = unnumbered(drafts, NOW)
    assert session in wanted
    assert len(wanted) == 2
    places = placed(drafts, {session: 5}, NOW)
    assert [place and place.turn for place in places] == [6, 7, 40, None, 1]
    assert [place is not None and bool(place.number & LOOSE) for place in places] == [False, False, False, False, True]
    assert all(place is None or 0 <= place.number < 2**63 for place in places)


@pytest.mark.parametrize(
    ("text", "start", "end"),
    [
        ("Who had dinner on May 3, 2023?", "2023-05-03", "2023-05-04"),
        ("What happened last spring?", "2023-03-01", "2023-06-01"),
        ("the talk two weeks ago", "2023-06-22", "2023-06-30"),
        ("What did he buy in December?", "2022-12-01", "2023-01-01"),
        ("3rd of June", "2023-06-03", "2023-06-04"),
        ("last weekend", "2023-07-08", "2023-07-10"),
        ("last Friday", "2023-07-07", "2023-07-08"),
        ("in 2022", "2022-01-01", "2023-01-01"),
        ("what did he do yesterday", "2023-07-09", "2023-07-10"),
        ("during summer 2022", "2022-06-01", "2022-09-01"),
        ("2023-05-02", "2023-05-02", "2023-05-03"),
        ("last month", "2023-06-01", "2023-07-01"),
        ("the last week of May", "2023-05-25", "2023-06-01"),
        ("at the beginning of May 2022", "2022-05-01", "2022-05-11"),
        ("over the weekend", "2023-07-08", "2023-07-10"),
        ("in the past two months", "2023-05-10", "2023-07-10"),
        ("the last couple of weeks", "2023-06-22", "2023-07-10"),
        ("What did I read recently?", "2023-06-10", "2023-07-10"),
    ],
)
def test_time_expressions(text: str, start: str, end: str) -> None:
    """Each is read as the days it means, seen from a Monday in July."""
    [span] = spans(text, NOW)
    assert span.start.date().isoformat() >= start
    assert span.end.date().isoformat() <= end
    assert span.days > 0


@pytest.mark.parametrize("text", ["What may I do?", "march on", "He ran 5 miles", "room 2022"])
def test_what_is_no_time(text: str) -> None:
    """Verbs and numbers name no time."""
    assert spans(text, NOW) == []


def test_what_is_told_soon_after_is_close() -> None:
    """Within a span is closest; a little later is closer than as much before."""
    wanted = spans("on 3 May 2023", NOW)
    day = timedelta(days=1)
    at = datetime(2023, 5, 3, 12, tzinfo=UTC)
    assert closeness(at, wanted) == 1.0
    assert 1.0 > closeness(at + 5 * day, wanted) > closeness(at - 5 * day, wanted) > 0
    assert closeness(at, []) == 0.0
    assert closeness(at, spans("in 2023", NOW)) < 0.2


def test_closeness_of_many_is_the_closeness_of_each() -> None:
    wanted = [*spans("on 3 May 2023", NOW), *spans("last month", NOW)]
    moments = [datetime(2023, 4, 20, tzinfo=UTC) + timedelta(hours=7 * step) for step in range(60)]
    hours = np.array([*(moment.timestamp() / 3600 for moment in moments), np.nan])

    assert closenesses(hours, wanted) == pytest.approx([*(closeness(moment, wanted) for moment in moments), 0.0])
    assert closenesses(hours, []) == pytest.approx(np.zeros(61))


def test_what_is_said_word_for_word_comes_first() -> None:
    """Whatever is said around the others: the second has every word, its neighbours' among them."""
    log_odds = arms(field([[1, 1, 1], [0, 1, 0]], cosines=[1.0, 0.97, 0.9])).fused(Fusion())
    assert best(log_odds, 3)[0] == 0
    without = arms(field([[1, 1, 1], [0, 1, 0]], cosines=[1.0, 0.97, 0.9])).fused(Fusion(verbatim=0.0))
    assert best(without, 3)[0] == 1
