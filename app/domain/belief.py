"""What a user means, as a distribution that every answer moves by Bayes.

    log p(h | answers) = log p(h) + sum over answers of w · x(h, question, answer)  (up to a constant)

over the full set of hypotheses: none is ever ruled out. The likelihood of an answer is learned: a conditional logit
over features that say how the answer, and the question it affirms or denies, resemble each hypothesis. One
temperature for each number of answers keeps the probabilities true (Guo et al. 2017): what several answers say is
not independent, and the sum of their log-likelihoods is surer than it should be.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from app.domain.answers import Exchange, Polarity, Text, content_stems, coverage, told_words
from app.domain.logit import Array, Logit, fit_logit, padded, softmax
from app.domain.questions import unit

FEATURES = 27
_SOURCES: tuple[Polarity, ...] = ("yes", "no", "open")
_TEMPERATURES = np.geomspace(0.4, 2.0, 33)
_UNLIKE = 0.45
"""Of the cosine of two words' vectors: below it they have nothing in common."""

_SPARE = 0.5
"""Of a word: a hypothesis with few words of its own is not named by one of them at once."""


@dataclass(frozen=True)
class Belief:
    """Log-probabilities (n,) of the hypotheses up to a constant, after a number of answers."""

    log_odds: Array
    answers: int = 0
    temperatures: tuple[float, ...] = ()

    @staticmethod
    def uniform(size: int, temperatures: tuple[float, ...] = ()) -> "Belief":
        """Nothing is known yet."""
        return Belief(np.zeros(size), 0, temperatures)

    @property
    def probabilities(self) -> Array:
        """(n,), summing to 1."""
        place = min(self.answers, len(self.temperatures)) - 1
        return softmax(self.log_odds / (self.temperatures[place] if place >= 0 else 1.0))

    def after(self, log_likelihoods: Array) -> "Belief":
        """The belief once an answer with these log-likelihoods (n,) was heard."""
        return replace(self, log_odds=self.log_odds + log_likelihoods, answers=self.answers + 1)


@dataclass(frozen=True)
class AnswerReader:
    """The learned likelihood of answers. `word_weights` say how much a stem tells apart, 1 where it is not known;
    `temperatures` are those after 1, 2, … answers, the last one for more."""

    logit: Logit
    word_weights: Mapping[str, float] = field(default_factory=dict[str, float])
    temperatures: tuple[float, ...] = ()

    def log_likelihoods(self, exchange: Exchange, hypotheses: Sequence[Text]) -> Array:
        """log p(answer | hypothesis, question) up to a constant: (n,)."""
        return self.logit.score(answer_features(exchange, hypotheses, self.word_weights))

    def start(self, size: int) -> Belief:
        """A belief over `size` hypotheses of which nothing is known."""
        return Belief.uniform(size, self.temperatures)


@dataclass(frozen=True)
class Heard:
    """What a reader is fitted on: the hypotheses of one request, and for some of them, by index, what people who
    meant it answered."""

    hypotheses: tuple[Text, ...]
    exchanges: Mapping[int, Sequence[Exchange]]


def answer_features(exchange: Exchange, hypotheses: Sequence[Text], word_weights: Mapping[str, float]) -> Array:
    """(n, FEATURES): eight of the answer itself, for each way to answer three of the question, and four of both for an
    answer that says again what the question said."""
    vectors = np.array([each.vector for each in hypotheses])
    shared = unit(vectors.mean(axis=0))
    apart = unit(vectors - np.outer(vectors @ shared, shared))
    stems = [content_stems(each.text) for each in hypotheses]
    own = content_stems(exchange.content.text)
    told = float(not exchange.is_bare)
    overlap = np.array(coverage(own, stems, word_weights))
    whole = vectors @ exchange.answer.vector
    beyond = told * (apart @ _without(exchange.content.vector, shared))
    columns = [whole, beyond, overlap, overlap / (1 + len(own)), _lead(whole), _lead(beyond)]
    columns += _named(exchange.content, hypotheses)
    asked = (
        vectors @ exchange.question.vector,
        apart @ _without(exchange.subject.vector, shared),
        np.array(coverage(content_stems(exchange.question.text), stems, word_weights)),
    )
    polarity = exchange.polarity
    ways = [polarity == each for each in _SOURCES]
    ways += [exchange.is_bare and polarity == "yes", exchange.is_bare and polarity == "no"]
    columns += [float(is_so) * each for is_so in ways for each in asked]
    again = told * float(exchange.content.vector @ exchange.question.vector)
    columns += [again * each for each in (whole, beyond, *asked[:2])]
    return np.stack(columns, axis=1)


def _lead(scores: Array) -> Array:
    """How far each score (n,) is ahead of the best of the others."""
    if len(scores) < 2:
        return np.zeros(len(scores))
    order = np.sort(scores)
    best, next_best = float(order[-1]), float(order[-2])
    return np.array([each - (next_best if each == best else best) for each in scores.tolist()])


def _named(content: Text, hypotheses: Sequence[Text]) -> list[Array]:
    """How much (n,) of what tells each hypothesis from the others an answer names, as a share and as a number of words:
    a word of it is named as far as the nearest word said is like it, and tells as far as the others lack it."""
    named: Array = np.zeros(len(hypotheses))
    telling: Array = np.zeros(len(hypotheses))
    holders = Counter(word for each in hypotheses for word in told_words(each.text))
    for place, each in enumerate(hypotheses):
        if len(each.words) and len(content.words):
            tells = np.array(
                [1.0 - (holders[word] - 1) / max(1, len(hypotheses) - 1) for word in told_words(each.text)]
            )
            likeness = (each.words @ content.words.T).max(axis=1)
            named[place] = tells @ np.clip((likeness - _UNLIKE) / (1.0 - _UNLIKE), 0.0, 1.0)
            telling[place] = tells.sum()
    return [named / (telling + _SPARE), named]


def fit_reader(heard: Sequence[Heard], steps: int = 3, folds: int = 5, seed: int = 0) -> AnswerReader:
    """The reader that makes what people answered most probable, with temperatures after 1 to `steps` answers.

    Every answer counts by itself for the likelihood; the temperatures are fitted on sequences of answers of requests
    that the likelihood was not fitted on. Raises ValueError without a request that has two hypotheses and an answer.
    """
    told = [each for each in heard if len(each.hypotheses) > 1 and any(each.exchanges.values())]
    if not told:
        raise ValueError("a reader of answers is learned from requests with two hypotheses and an answer at least")
    weights = _word_weights(told)
    features = [_features(each, weights) for each in told]
    logit = _fit(features)
    chances = np.random.default_rng(seed)
    ended: list[list[tuple[Array, int]]] = [[] for _ in range(steps)]
    for fold in range(min(folds, len(told))):
        held_out = [each for index, each in enumerate(features) if index % folds == fold]
        fitted = _fit([each for index, each in enumerate(features) if index % folds != fold]) if folds > 1 else logit
        for answers in held_out:
            for meant, own in answers.items():
                log_odds: Array = np.zeros(len(own[0]))
                order: list[int] = chances.permutation(len(own))[:steps].tolist()
                for step, index in enumerate(order):
                    log_odds = log_odds + fitted.score(own[index])
                    ended[step].append((log_odds, meant))
    return AnswerReader(logit, weights, tuple(_temperature(each) for each in ended))


def _features(heard: Heard, weights: Mapping[str, float]) -> dict[int, list[Array]]:
    return {
        meant: [answer_features(each, heard.hypotheses, weights) for each in exchanges]
        for meant, exchanges in heard.exchanges.items()
        if exchanges
    }


def _fit(features: Sequence[Mapping[int, Sequence[Array]]]) -> Logit:
    rows = [(array, meant) for each in features for meant, own in each.items() for array in own]
    if not rows:
        return Logit(np.zeros(FEATURES))
    return fit_logit(padded([array for array, _ in rows], [meant for _, meant in rows]))


def _word_weights(heard: Sequence[Heard]) -> dict[str, float]:
    """Inverse document frequency of the stems of answers (Robertson and Spärck Jones 1976)."""
    counts: Counter[str] = Counter()
    total = 0
    for each in heard:
        for exchanges in each.exchanges.values():
            for exchange in exchanges:
                total += 1
                counts.update(content_stems(exchange.answer.text))
    return {word: float(np.log1p((total - n + 0.5) / (n + 0.5))) for word, n in counts.items()}


def _temperature(ended: Sequence[tuple[Array, int]]) -> float:
    """The temperature under which what was meant is most probable."""
    if not ended:
        return 1.0
    losses = [sum(-np.log(softmax(odds / each)[meant] + 1e-12) for odds, meant in ended) for each in _TEMPERATURES]
    return float(_TEMPERATURES[int(np.argmin(losses))])


def _without(vector: Array, direction: Array) -> Array:
    return vector - direction * (vector @ direction)
