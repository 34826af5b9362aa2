"""Weighing: how likely each reading of a language model is, before it is calibrated."""

from collections.abc import Sequence
from dataclasses import replace

import structlog

from app import request
from app.domain.basis import Basis
from app.domain.calibration import (
    LABEL,
    NEARNESS,
    TYPICAL_COSINE,
    label_features,
    nearness_features,
    prior_of,
    score,
)
from app.domain.errors import ModelUnavailable
from app.domain.hypotheses import HypothesisContext, Reading
from app.domain.labels import LABELS_VERSION, Weighed
from app.ports import SLM
from app.services.spaces import Spaces

log = structlog.get_logger(__name__)

SHARE = 0.5
"""Of the time that is left of a request, what the weighing of its readings may take."""

UNBOUND_S = 10.0
"""What there is where no request sets a deadline."""


async def weighed(
    spaces: Spaces, tenant_id: str, slm: SLM, context: HypothesisContext, readings: Sequence[Reading]
) -> tuple[Sequence[Reading], Basis]:
    """The readings that `slm` proposed, with what a calibration reads, and what that is: the model's own label
    probabilities where it has any, else how near they are to the input by embedding. Rules have given their readings a
    log-odds by themselves."""
    if not readings or any(each.origin != "model" for each in readings):
        return readings, Basis()
    made = await _by_labels(slm, context, readings)
    if made is not None:
        features = [label_features(each) for each in made.log_odds]
        basis = Basis(LABEL, made.way, made.orders, made.mass, LABELS_VERSION, made.seconds, made.tokens)
    else:
        features = [nearness_features(each) for each in await _cosines(spaces, tenant_id, context, readings)]
        basis = Basis(NEARNESS)
    prior = prior_of(slm.name)
    return [
        replace(reading, features=each, score=score(each, prior))
        for reading, each in zip(readings, features, strict=True)
    ], basis


async def _by_labels(slm: SLM, context: HypothesisContext, readings: Sequence[Reading]) -> Weighed | None:
    with request.budget(SHARE * request.remaining_s(UNBOUND_S)):
        try:
            made = await slm.weigh_readings(context, readings)
        except ModelUnavailable as error:
            log.warning("readings_unweighed", cause=error.cause, reason=str(error))
            return None
    if made is None:
        log.info("readings_unweighed", cause="unsupported", reason="the model tells no probabilities of labels")
    return made


async def _cosines(
    spaces: Spaces, tenant_id: str, context: HypothesisContext, readings: Sequence[Reading]
) -> Sequence[float]:
    """Of each reading to the input; where no embedding is to be had, as of readings that nothing speaks for."""
    texts = [context.input_text, *(each.request for each in readings)]
    try:
        vectors = (await spaces.embed(tenant_id, texts)).vectors
    except ModelUnavailable as error:
        log.warning("embedding_unavailable", cause=error.cause, reason=str(error))
        return [TYPICAL_COSINE] * len(readings)
    return [float(each) for each in vectors[1:] @ vectors[0]]
