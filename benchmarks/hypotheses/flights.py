"""What a traveller values, from which flights they chose and what they said: FlightPref."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from app.domain.logit import Array
from app.domain.remarks import Person, RemarkReader, fit_kinship, fit_remarks
from app.domain.tastes import Comparison, Taste, TastePrior, fit_prior, fit_sharpness, taste_of
from benchmarks.hypotheses.data import Game
from benchmarks.hypotheses.statistics import mean_interval
from benchmarks.report import Figure, Target

CHOICES = 5
LEVEL = 0.9
FOLDS = 5


def flight_figures(train: Sequence[Game], dev: Sequence[Game]) -> list[Figure]:
    """Cosine to the true weights, coverage of intervals, and how often the best of three is predicted."""
    weights = np.array([game.weights for game in train])
    prior = fit_sharpness(fit_prior(weights), [_choices(game) for game in train])
    reader = _reader(train, prior)
    by_choices = [(game, _taste(game, CHOICES, prior, None)) for game in dev if len(game.rounds) >= CHOICES]
    with_remarks = [(game, _taste(game, CHOICES, prior, reader)) for game in dev if len(game.rounds) >= CHOICES]
    averages = np.array([_cosine(_moving_average(game), game.weights) for game, _ in by_choices])
    cosines = _cosines(by_choices)
    said = _cosines(with_remarks)
    covered = np.concatenate([_covered(game, taste) for game, taste in by_choices])
    figures = [
        Figure(f"flightpref/cosine/{CHOICES}", float(cosines.mean()), "", Target("≥", 0.68), mean_interval(cosines)),
        Figure(
            f"flightpref/moving_average/cosine/{CHOICES}", float(averages.mean()), "", None, mean_interval(averages)
        ),
        Figure(
            f"flightpref/said/cosine/{CHOICES}",
            float(said.mean()),
            "",
            Target("≥", 0.75),
            f"{mean_interval(said)}; kinship {reader.kinship:g}; beyond choices: {mean_interval(said - cosines)}",
        ),
        Figure(
            f"flightpref/coverage_90/{CHOICES}",
            float(covered.mean()),
            "",
            None,
            f"has to be 0.87 to 0.93; {len(by_choices)} games; {mean_interval(covered)}",
        ),
        Figure(
            f"flightpref/said/coverage_90/{CHOICES}",
            float(np.concatenate([_covered(game, taste) for game, taste in with_remarks]).mean()),
        ),
        Figure(
            "flightpref/order_difference",
            _order_difference(dev, prior),
            "",
            Target("≤", 1e-9),
            "greatest difference of a mean when the choices come in the opposite order",
        ),
    ]
    return figures + _accuracies(dev, prior, reader)


def _accuracies(dev: Sequence[Game], prior: TastePrior, reader: RemarkReader) -> list[Figure]:
    """How often the best of three is predicted after k choices: on the traveller's own next rounds, and on the
    options of all other games, of which the hidden weights know the best."""
    shown = np.array([options for game in dev for options, _, _ in game.rounds])
    figures: list[Figure] = []
    for count in range(1, CHOICES + 1):
        own: list[float] = []
        others: list[float] = []
        said: list[float] = []
        for game in dev:
            if len(game.rounds) < count:
                continue
            mean = _taste(game, count, prior, None).mean
            best = (shown @ game.weights).argmax(axis=1)
            others.append(float(((shown @ mean).argmax(axis=1) == best).mean()))
            if len(game.rounds) > count:
                options, index, _ = game.rounds[count]
                own.append(float((options @ mean).argmax() == index))
                told = _taste(game, count, prior, reader).mean
                said.append(float((options @ told).argmax() == index))
        for name, values in (("accuracy", own), ("said/accuracy", said), ("others/accuracy", others)):
            if values:
                error = float(np.std(values) / np.sqrt(len(values)))
                note = f"standard error {error:.3f}, {len(values)} games"
                figures.append(Figure(f"flightpref/{name}/{count}", float(np.mean(values)), "", None, note))
    return figures


def _reader(train: Sequence[Game], prior: TastePrior) -> RemarkReader:
    """The reading of remarks; their kinship is measured on long games, each by a reader that is fitted without it."""
    people: list[Person] = []
    for fold in range(FOLDS):
        first = _fit_remarks([game for index, game in enumerate(train) if index % FOLDS != fold])
        held_out = [game for index, game in enumerate(train) if index % FOLDS == fold and len(game.rounds) > 3]
        people += [Person(first, _choices(game), _said(game), game.weights) for game in held_out]
    return replace(_fit_remarks(train), kinship=fit_kinship(prior, people))


def _fit_remarks(games: Sequence[Game]) -> RemarkReader:
    texts = [text for game in games for text in _said(game)]
    people = [index for index, game in enumerate(games) for _ in game.rounds]
    return fit_remarks(texts, np.array([games[index].weights for index in people]), people)


def _choices(game: Game) -> list[Comparison]:
    return [Comparison(options, index) for options, index, _ in game.rounds]


def _said(game: Game) -> list[str]:
    return [text for _, _, text in game.rounds]


def _taste(game: Game, count: int, prior: TastePrior, reader: RemarkReader | None) -> Taste:
    remarks = reader.read(_said(game)[:count]) if reader else []
    return taste_of(prior, _choices(game)[:count], remarks)


def _moving_average(game: Game) -> Array:
    """The mean of the chosen options less the mean of those shown: what a running average of choices knows."""
    return np.mean([options[index] - options.mean(axis=0) for options, index, _ in game.rounds[:CHOICES]], axis=0)


def _cosine(one: Array, other: Array) -> float:
    return float(one @ other / max(1e-12, float(np.linalg.norm(one) * np.linalg.norm(other))))


def _cosines(found: Sequence[tuple[Game, Taste]]) -> Array:
    return np.array([_cosine(taste.mean, game.weights) for game, taste in found])


def _covered(game: Game, taste: Taste) -> Array:
    low, high = taste.interval(LEVEL)
    return ((low <= game.weights) & (game.weights <= high)).astype(np.float64)


def _order_difference(dev: Sequence[Game], prior: TastePrior) -> float:
    differences = [
        float(np.abs(taste_of(prior, _choices(game)).mean - taste_of(prior, _choices(game)[::-1]).mean).max())
        for game in dev
    ]
    return max(differences)
