"""What a request means after 0 to 3 answers: ClariQ's facets as hypotheses, people's answers in random order."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from app.domain.belief import AnswerReader, Heard
from app.domain.logit import Array
from benchmarks.hypotheses.statistics import calibration_error, calibration_errors_by_chance, clustered_interval
from benchmarks.report import Figure, Target

ORDERS = 5
STEPS = 3
TOP1 = {1: 0.86, 2: 0.95, 3: 0.98}
ECE = 0.02


def belief_figures(reader: AnswerReader, heard: Sequence[Heard]) -> list[Figure]:
    """Top-1, calibration error, log loss and reciprocal rank of what was meant after each number of answers.

    A request with one facet alone leaves nothing to believe, and is left out. Where several facets are equally
    probable, each is taken to come first by chance.
    """
    after = _after_answers(reader, heard)
    figures: list[Figure] = []
    for step, (beliefs, meant, groups, requests) in enumerate(after):
        top = np.array([_hit(each, index) for each, index in zip(beliefs, meant, strict=True)])
        confidence = np.array([each.max() for each in beliefs])
        own = np.array([each[index] for each, index in zip(beliefs, meant, strict=True)])
        ranks = np.array([_rank(each, index) for each, index in zip(beliefs, meant, strict=True)])
        target = Target("≥", TOP1[step]) if step in TOP1 else None
        note = clustered_interval(top, requests)
        figures.append(Figure(f"belief/top1/{step}", float(top.mean()), "", target, note))
        error = calibration_error(confidence, top)
        by_chance = calibration_errors_by_chance(confidence, groups)
        note = f"{by_chance.mean():.3f} by chance, were every probability true"
        if step:
            note += f"; so much or more in {100 * float((by_chance >= error).mean()):.0f} % of such draws"
        figures.append(Figure(f"belief/ece/{step}", error, "", Target("≤", ECE), note))
        figures.append(Figure(f"belief/nll/{step}", float(-np.log(own + 1e-12).mean()), "nats"))
        figures.append(Figure(f"belief/mrr/{step}", float((1.0 / ranks).mean())))
    return figures


def _after_answers(
    reader: AnswerReader, heard: Sequence[Heard]
) -> list[tuple[list[Array], list[int], NDArray[np.int64], NDArray[np.int64]]]:
    """For each number of answers: (beliefs, indices of what was meant, which person and which request each is of)."""
    chances = np.random.default_rng(0)
    found: list[tuple[list[Array], list[int], list[int], list[int]]] = [([], [], [], []) for _ in range(STEPS + 1)]
    person = 0
    for request, each in enumerate(heard):
        if len(each.hypotheses) < 2:
            continue
        for meant, exchanges in each.exchanges.items():
            likelihoods = [reader.log_likelihoods(exchange, each.hypotheses) for exchange in exchanges]
            for _ in range(ORDERS):
                belief = reader.start(len(each.hypotheses))
                order = chances.permutation(len(likelihoods))
                for step in range(STEPS + 1):
                    if step > 0 and step <= len(order):
                        belief = belief.after(likelihoods[order[step - 1]])
                    beliefs, indices, people, requests = found[step]
                    beliefs.append(belief.probabilities)
                    indices.append(meant)
                    people.append(person)
                    requests.append(request)
            person += 1
    return [(beliefs, indices, np.array(people), np.array(requests)) for beliefs, indices, people, requests in found]


def _hit(probabilities: Array, meant: int) -> float:
    best = np.isclose(probabilities, probabilities.max(), rtol=0, atol=1e-12)
    return float(best[meant]) / int(best.sum())


def _rank(probabilities: Array, meant: int) -> float:
    above = int((probabilities > probabilities[meant] + 1e-12).sum())
    beside = int(np.isclose(probabilities, probabilities[meant], rtol=0, atol=1e-12).sum())
    return above + (beside + 1) / 2
