"""How likely a model finds each of several readings: by its server's own endpoint for decisions where there is one,
else by the log-probabilities of the letters that stand for them.

`/v1/decisions` (vLLM 0.33 and later, and others that follow OpenAI's) and `/v1/systemone` (vLLM 0.32 and later) read
the probabilities of labels in one request; vLLM has them for some families of models only, and answers 501 for the
others. What a server does not have is not asked for again for REST_S, or until it could not be reached and may be
another one.
"""

import asyncio
import math
import time
from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
import structlog

from app import request
from app.clients.slm.endpoint import TOKENS, Ask, ChatEndpoint, Completion, Unsupported
from app.domain.errors import ModelUnavailable
from app.domain.labels import (
    LABELLING,
    LABELS,
    LEAST_MASS,
    MOST_ORDERS,
    QUESTION,
    Read,
    Weighed,
    labels_instruction,
    labels_state,
    log_odds_of,
    mass_of,
    options_of,
    orders,
)

log = structlog.get_logger(__name__)

CALL = "labels"

REST_S = 300.0
"""A server that says that it does not have something has this long to get it."""

DECISIONS, SYSTEMONE, LOGPROBS = "decisions", "systemone", "logprobs"

Order = tuple[int, ...]


class LabelReader:
    """Reads labels from one server, in at most `most_orders` orders of the options."""

    def __init__(self, endpoint: ChatEndpoint, most_orders: int = MOST_ORDERS) -> None:
        self._endpoint = endpoint
        self._most_orders = most_orders
        self._rests_until: dict[str, float] = {}
        self._tokens: dict[tuple[str, str], tuple[int, ...]] = {}

    async def weigh(self, user_input: str, context: Mapping[str, Any], texts: Sequence[str]) -> Weighed | None:
        """How likely the model finds each of `texts` as what the user means; `context` as for the hypotheses. None
        where the server does not tell, or the model was about to say no label. Raises ModelUnavailable."""
        started = time.perf_counter()
        options = _distinct(options_of(texts))
        shown = orders(len(options), self._most_orders)
        state = labels_state(user_input, context)
        try:
            for way in (DECISIONS, SYSTEMONE, LOGPROBS):
                if self._rests_until.get(way, 0.0) > time.monotonic():
                    continue
                try:
                    reads, tokens = await self._read(way, user_input, context, state, options, shown)
                except Unsupported:
                    self._rests_until[way] = time.monotonic() + REST_S
                    log.info("slm_labels_unsupported", slm=self._endpoint.name, way=way)
                    continue
                mass = mass_of(reads)
                if mass is not None and mass < LEAST_MASS:
                    return None
                seconds = time.perf_counter() - started
                return Weighed(log_odds_of(shown, reads), len(shown), way, mass, seconds, tokens)
        except ModelUnavailable as error:
            if error.cause in {"unreachable", "reset"}:
                self._rests_until.clear()
                self._tokens.clear()
            raise
        return None

    async def _read(
        self,
        way: str,
        user_input: str,
        context: Mapping[str, Any],
        state: str,
        options: Sequence[str],
        shown: Sequence[Order],
    ) -> tuple[list[Read], int]:
        match way:
            case "decisions":
                return await self._decisions(state, options, shown)
            case "systemone":
                return await self._systemone(state, options, shown)
            case _:
                return await self._logprobs(user_input, context, options, shown)

    async def _decisions(self, state: str, options: Sequence[str], shown: Sequence[Order]) -> tuple[list[Read], int]:
        """As OpenAI's decisions have it."""
        instructions = f"{LABELLING}\n{QUESTION}"
        questions = [
            {
                "type": "choice",
                "name": f"order{number}",
                "instructions": instructions,
                "choices": [{"value": options[at]} for at in order],
            }
            for number, order in enumerate(shown)
        ]
        body = {"model": await self._endpoint.served_model(), "input": state, "questions": questions}
        answer = await self._post("decisions", body)
        try:
            reads: list[Read] = []
            for order, each in zip(shown, cast(list[Any], answer["answers"]), strict=True):
                told = {one["value"]: float(one["probability"]) for one in each["probabilities"]}
                reads.append(Read(_logs([told[options[at]] for at in order])))
            return reads, self._counted(answer)
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise ModelUnavailable("the server sent decisions of another form", "broken_answer") from error

    async def _systemone(self, state: str, options: Sequence[str], shown: Sequence[Order]) -> tuple[list[Read], int]:
        """As vLLM has it: every order is a question about one state, whose computation they share."""
        questions = {
            f"order{number}": {
                "type": "choice",
                "instructions": QUESTION,
                "criteria": {options[at]: None for at in order},
            }
            for number, order in enumerate(shown)
        }
        body = {
            "model": await self._endpoint.served_model(),
            "state": state,
            "instructions": LABELLING,
            "questions": questions,
        }
        answer = await self._post("systemone", body)
        try:
            reads = [
                Read(
                    _logs([float(answer["answers"][name]["probabilities"][options[at]]) for at in order]),
                    float(answer["diagnostics"][name]["label_mass"]),
                )
                for name, order in zip(questions, shown, strict=True)
            ]
            return reads, self._counted(answer)
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise ModelUnavailable("the server sent decisions of another form", "broken_answer") from error

    async def _logprobs(
        self, user_input: str, context: Mapping[str, Any], options: Sequence[str], shown: Sequence[Order]
    ) -> tuple[list[Read], int]:
        """One token of an answer for every order, all at once."""
        labels = LABELS[: len(options)]
        tokens = await self._label_tokens(labels)
        asks = [
            Ask(
                CALL,
                labels_instruction(user_input, context, [options[at] for at in order]).messages,
                max_tokens=1,
                has_alternatives=True,
                label_tokens=tokens,
            )
            for order in shown
        ]
        try:
            async with asyncio.TaskGroup() as group:
                made = [group.create_task(self._endpoint.complete(ask)) for ask in asks]
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from None
        completions = [each.result() for each in made]
        used = sum((each.prompt_tokens or 0) + (each.completion_tokens or 0) for each in completions)
        return [_label_read(each, labels) for each in completions], used

    async def _label_tokens(self, labels: str) -> tuple[int, ...]:
        """The labels' tokens, so that each is told of however unlikely it is; none where the server has no such way,
        or a label is no token of its own."""
        if not (self._endpoint.dialect.has_extras and self._endpoint.dialect.has_label_tokens):
            return ()
        model = await self._endpoint.served_model()
        if (model, labels) not in self._tokens:
            url = f"{self._endpoint.base_url.rstrip('/').removesuffix('/v1')}/tokenize"
            bodies = [{"model": model, "prompt": label, "add_special_tokens": False} for label in labels]
            found: list[int] = []
            try:
                for answer in await asyncio.gather(*(self._endpoint.post(url, body, CALL) for body in bodies)):
                    (token,) = cast(Mapping[str, list[int]], answer)["tokens"]
                    found.append(int(token))
            except (Unsupported, LookupError, TypeError, ValueError):
                found = []
            self._tokens[model, labels] = tuple(found) if len(set(found)) == len(labels) else ()
        return self._tokens[model, labels]

    async def _post(self, path: str, body: Mapping[str, Any]) -> Any:
        tenant = request.tenant()
        salted = {**body, "cache_salt": tenant} if tenant and self._endpoint.dialect.has_extras else body
        return await self._endpoint.post(f"/{path}", salted, CALL)

    def _counted(self, answer: Any) -> int:
        """The tokens that an answer says it took, counted as those of chats are."""
        usage: Mapping[str, Any] = answer.get("usage") or {}
        counts = {kind: usage.get(f"{name}_tokens") for kind, name in (("prompt", "input"), ("completion", "output"))}
        known = {kind: count for kind, count in counts.items() if isinstance(count, int) and count >= 0}
        for kind, count in known.items():
            TOKENS.labels(self._endpoint.name, kind).inc(count)
        return sum(known.values())


def _label_read(completion: Completion, labels: str) -> Read:
    """The log-probabilities of the labels as the first token. Raises Unsupported where the server tells none. A label
    that it does not tell of is at most as likely as the least likely token that it tells of."""
    first = completion.tokens[0] if completion.tokens else None
    told = [(token.strip(), value) for token, value in first.alternatives if math.isfinite(value)] if first else []
    if not told:
        raise Unsupported("the server tells no log-probabilities", "unsupported")
    least = min(value for _, value in told)
    found = [[value for token, value in told if token == label] for label in labels]
    sums = [float(np.logaddexp.reduce(values)) if values else None for values in found]
    logprobs = [least if each is None else each for each in sums]
    mass = sum(math.exp(min(0.0, each)) for each in sums if each is not None)
    return Read(logprobs, min(1.0, mass))


def _logs(probabilities: Sequence[float]) -> list[float]:
    """Raises ValueError for what is no probability."""
    if not all(0.0 <= each <= 1.0 for each in probabilities):
        raise ValueError("a probability is between 0 and 1")
    return [math.log(each) if each > 0.0 else -math.inf for each in probabilities]


def _distinct(texts: Sequence[str]) -> list[str]:
    """The texts, each different from those before it."""
    return [f"{text} ({before + 1})" if (before := texts[:at].count(text)) else text for at, text in enumerate(texts)]
