"""How likely a model found its own words, out of the log-probabilities of its tokens."""

import json
import math
from collections.abc import Sequence

import pytest

from app.clients.slm.endpoint import Ask, ChatEndpoint, Token
from app.clients.slm.likelihood import mean_logprobs
from tests.model_answers import SERVERS, ScriptedServer, recorded


def tokens_of(*pieces: tuple[str, float]) -> list[Token]:
    return [Token(text.encode(), logprob) for text, logprob in pieces]


def test_the_mean_is_over_the_tokens_that_wrote_the_text() -> None:
    tokens = tokens_of(('{"question":"', -9.0), ("Do ", -1.0), ("you?", -3.0), ('"}', -9.0))

    assert mean_logprobs(tokens, ["Do you?"]) == [-2.0]


def test_a_token_that_writes_only_a_part_counts() -> None:
    tokens = tokens_of(('{"q":"Do', -1.0), (" you", -2.0), ('?"}', -6.0))

    assert mean_logprobs(tokens, ["Do you?"]) == [-3.0]


def test_each_text_is_found_where_it_was_written() -> None:
    """A text that is written twice has two likelihoods, in order."""
    tokens = tokens_of(("same", -1.0), ('","', -9.0), ("other", -2.0), ('","', -9.0), ("same", -5.0))

    assert mean_logprobs(tokens, ["same", "other", "same"]) == [-1.0, -2.0, -5.0]


@pytest.mark.parametrize("text", ['say "hi"', "back\\slash", "naïve café", "日本語", "a\tb", "🚀 go"])
@pytest.mark.parametrize("is_ascii", [False, True])
def test_texts_are_found_as_json_writes_them(text: str, *, is_ascii: bool) -> None:
    written = json.dumps({"question": text}, ensure_ascii=is_ascii).encode()
    tokens = [Token(written[start : start + 1], -0.5) for start in range(len(written))]

    assert mean_logprobs(tokens, [text]) == [-0.5]


@pytest.mark.parametrize(
    ("tokens", "texts", "means"),
    [
        ([], [], []),
        ([], ["a"], [None]),
        (tokens_of(("abc", -1.0)), [], []),
        (tokens_of(("abc", -1.0)), ["missing"], [None]),
        (tokens_of(("abc", -1.0)), ["missing", "abc"], [None, -1.0]),
        (tokens_of(("abc", math.nan)), ["abc"], [None]),
        (tokens_of(("ab", math.nan), ("c", -2.0)), ["abc"], [-2.0]),
        (tokens_of(("ab", -math.inf), ("c", -2.0)), ["abc"], [-2.0]),
        (tokens_of(("ab", math.inf), ("c", -2.0)), ["abc"], [-2.0]),
        (tokens_of(("ab", 4.0), ("c", -2.0)), ["abc"], [-1.0]),
        (tokens_of(("ab", -1.0), ("", -7.0), ("c", -3.0)), ["abc"], [-11 / 3]),
    ],
)
def test_what_is_missing_or_no_number_counts_nothing(
    tokens: Sequence[Token], texts: Sequence[str], means: Sequence[float | None]
) -> None:
    assert mean_logprobs(tokens, texts) == pytest.approx(means)


@pytest.mark.parametrize("server", SERVERS)
@pytest.mark.parametrize("case", ["hypotheses", "hypotheses_french"])
async def test_recorded_answers_have_a_likelihood_for_every_question(server: str, case: str) -> None:
    """Against the mean taken the long way: token by token, by the place of the text in the answer."""
    transport = ScriptedServer([recorded(server, case)]).client
    completion = await ChatEndpoint("test", "http://host/v1", "m", http_client=transport).complete(
        Ask("hypotheses", [{"role": "user", "content": "x"}], 10, has_logprobs=True)
    )
    questions = [each["question"] for each in json.loads(completion.text)["hypotheses"]]

    means = mean_logprobs(completion.tokens, questions)

    owners = [index for index, token in enumerate(completion.tokens) for _ in token.text]
    written = b"".join(token.text for token in completion.tokens)
    place = 0
    for question, mean in zip(questions, means, strict=True):
        place = written.index(question.encode(), place)
        wrote = sorted(set(owners[place : place + len(question.encode())]))
        place += 1
        assert mean == pytest.approx(sum(completion.tokens[index].logprob for index in wrote) / len(wrote))
        assert -5 < mean <= 0
