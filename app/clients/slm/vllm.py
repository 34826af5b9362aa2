"""The client of a language model behind an OpenAI-compatible server: vLLM first, any other too.

```python
client = VLLMClient()
hypotheses = await client.generate_hypotheses("build api", {"preferences": ["Python", "FastAPI"]}, count=3)
```
"""

import asyncio
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar, cast

import httpx2
import structlog
from pydantic import BaseModel

from app.clients.slm import answers, language
from app.clients.slm.endpoint import Ask, ChatEndpoint, Completion, address_of
from app.clients.slm.labels import CALL, LabelReader
from app.clients.slm.likelihood import mean_logprobs
from app.clients.slm.resilience import Guard, Limits
from app.domain.calibration import WORDS_PRIOR, probabilities, words_features
from app.domain.errors import ModelUnavailable
from app.domain.extracting import EXTRACTION_VERSION, extraction_instruction
from app.domain.instructions import (
    MOST_RELEVANCE,
    PROMPT_VERSION,
    REPAIR,
    RERANK_BATCH,
    WISHES,
    Instruction,
    enrichment_instruction,
    facets_instruction,
    followups_instruction,
    hypotheses_instruction,
    memories_of,
    relevance_instruction,
    summary_instruction,
)
from app.domain.labels import LABELS_VERSION, MOST_ORDERS, MOST_READINGS, Weighed
from app.domain.persona import DEFAULT_FACETS, NEUTRAL
from app.domain.sampling import Sampling
from app.domain.turns import Utterance
from app.settings import Settings, load_settings

log = structlog.get_logger(__name__)

VARIED = 0.3
"""Temperature where several different answers are wanted."""

_SENTENCES = re.compile(r".*(?:[.!?…](?=\s|$)|[。！？])", re.DOTALL)
"""A text up to the end of its last whole sentence."""

_REPAIRED = frozenset({"broken_answer", "wrong_shape"})

A = TypeVar("A", bound=BaseModel)
T = TypeVar("T")


@dataclass(frozen=True)
class ModelHypothesis:
    """A reading as the model gave it. `memories` are positions (from 0) in `memories_of(context)`. `confidence` is the
    probability of its question by how likely the model found these words, `mean_logprob` (nats per token, at most 0,
    None where the server does not tell); what the service says of it comes from `weigh`."""

    question: str
    request: str
    memories: tuple[int, ...]
    mean_logprob: float | None
    confidence: float


class VLLMClient:
    """Eight judgements of one model. Every method raises ModelUnavailable (with a cause) and nothing else; the time
    it may take is the request's budget (`app.request`), else `limits.budget_s`.
    """

    prompt_version = PROMPT_VERSION

    def __init__(
        self,
        base_url: str | None = None,
        model: str | None = None,
        *,
        name: str = "vllm",
        api_key: str | None = None,
        has_extras: bool | None = None,
        limits: Limits | None = None,
        settings: Settings | None = None,
        sampling: Callable[[str], Sampling] | None = None,
        label_orders: int = MOST_ORDERS,
        http_client: httpx2.AsyncClient | None = None,
    ) -> None:
        """What is None comes from the settings (VLLM_BASE_URL, VLLM_MODEL_NAME, SLM_API_KEY, …). `has_extras`:
        whether vLLM's own fields may be sent; `sampling`: a role's parameters for a call; `label_orders`: the most
        orders in which readings are weighed. Connects to nothing yet."""
        if settings is None and (base_url is None or limits is None):
            settings = load_settings()
        if settings is not None:
            model = model or (settings.vllm_model_name if base_url is None else None)
            base_url = base_url or settings.vllm_base_url
            limits = limits or limits_of(settings)
            api_key = api_key or settings.slm_key
        self.name = name
        self._endpoint = ChatEndpoint(
            name,
            cast(str, base_url),
            model,
            api_key=api_key,
            has_extras=name != "openai" if has_extras is None else has_extras,
            sampling=sampling,
            http_client=http_client,
        )
        self._labels = LabelReader(self._endpoint, label_orders)
        self._guard = Guard(name, limits or Limits())

    @property
    def state(self) -> str:
        """The breaker's: `closed`, `open` or `half_open`."""
        return self._guard.state

    @property
    def model(self) -> str | None:
        """The model asked for; None until a server that was to name one has."""
        return self._endpoint.model

    @property
    def address(self) -> str:
        """Where the server is."""
        return address_of(self._endpoint.base_url)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._endpoint.aclose()

    async def generate_hypotheses(
        self, user_input: str, context: Mapping[str, Any], count: int = 3, *, adapter: str | None = None
    ) -> list[ModelHypothesis]:
        """Up to `count` readings of an input, best first; `context` as for `hypotheses_instruction`. `adapter` is the
        name of one that the server has, in the base model's place."""
        instruction = hypotheses_instruction(user_input, context, count)
        schema = answers.hypotheses_schema(count)
        ask = _constrained("hypotheses", instruction, schema, temperature=VARIED, has_logprobs=True)
        ask = replace(ask, model=adapter)

        async def work() -> tuple[list[ModelHypothesis], Completion]:
            answer, completion = await self._answer(ask, answers.Proposals)
            await _check_language([proposal.question for proposal in answer.hypotheses], user_input, context)
            return _hypotheses(answer, completion, len(memories_of(context)))[:count], completion

        made, completion = await self._guard.run(ask.call, work)
        self._log("vllm_hypotheses_generated", completion, count=len(made))
        return made

    async def weigh(self, user_input: str, context: Mapping[str, Any], texts: Sequence[str]) -> Weighed | None:
        """How likely the model finds each of `texts`, MOST_READINGS at most, as what the user means; None where its
        server does not tell."""
        weighed = await self._guard.run(CALL, lambda: self._labels.weigh(user_input, context, texts[:MOST_READINGS]))
        if weighed is not None:
            log.info(
                "vllm_readings_weighed",
                slm=self.name,
                way=weighed.way,
                labels_version=LABELS_VERSION,
                readings=len(texts),
                orders=weighed.orders,
                mass=None if weighed.mass is None else round(weighed.mass, 4),
                seconds=round(weighed.seconds, 4),
                tokens=weighed.tokens,
            )
        return weighed

    async def compute_facet_updates(
        self, signal: Mapping[str, Any], facets: Mapping[str, float] | None = None
    ) -> dict[str, float]:
        """How far each facet should move, in -0.16..0.16, zeros left out; `signal` as for `facets_instruction`."""
        held = facets or dict.fromkeys(DEFAULT_FACETS, NEUTRAL)
        schema = answers.wishes_schema(list(held))
        ask = _constrained("facets", facets_instruction(signal, held), schema)
        answer, completion = await self._run(ask, answers.Wishes)
        deltas = {name: WISHES[wish] for name, wish in answer.facets.items() if name in held}
        self._log("vllm_facets_computed", completion, moved=sum(value != 0 for value in deltas.values()))
        return {name: value for name, value in deltas.items() if value}

    async def summarize(self, texts: str | Sequence[str], max_tokens: int) -> str:
        """The gist of `texts` in at most `max_tokens` of the model's tokens."""
        parts = [texts] if isinstance(texts, str) else list(texts)
        ask = Ask("summary", summary_instruction(parts, max_tokens).messages, max_tokens=max_tokens)

        async def work() -> Completion:
            completion = await self._endpoint.complete(ask)
            if not answers.cleaned(completion.text).strip():
                raise ModelUnavailable("the summary is empty", "wrong_shape")
            await _check_language([completion.text], " ".join(parts), {})
            return completion

        completion = await self._guard.run(ask.call, work)
        self._log("vllm_summary_generated", completion, texts=len(parts))
        text = answers.cleaned(completion.text).strip()
        whole = _SENTENCES.match(text) if completion.finish_reason == "length" else None
        return whole[0] if whole else text

    async def enrich_context(self, user_input: str, context: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """`{"enrichment": {implicit_goals, inferred_expertise_level, next_steps}}` of a request."""
        instruction = enrichment_instruction(user_input, context)
        schema = answers.enrichment_schema()
        ask = _constrained("enrichment", instruction, schema)

        async def work() -> tuple[answers.Enrichment, Completion]:
            answer, completion = await self._answer(ask, answers.Enrichment)
            await _check_language([*answer.implicit_goals, *answer.next_steps], user_input, context)
            return answer, completion

        answer, completion = await self._guard.run(ask.call, work)
        self._log("vllm_context_enriched", completion)
        return {"enrichment": answer.model_dump()}

    async def generate_followup_questions(
        self,
        conversation_context: str,
        persona_facets: Mapping[str, float] | None = None,
        count: int = 3,
        *,
        context: Mapping[str, Any] | None = None,
    ) -> list[str]:
        """Up to `count` questions that move a conversation on."""
        known = {**(context or {}), **({"persona_facets": persona_facets} if persona_facets else {})}
        instruction = followups_instruction(conversation_context, known, count)
        schema = answers.questions_schema(count)
        ask = _constrained("followups", instruction, schema, temperature=VARIED)

        async def work() -> tuple[answers.Questions, Completion]:
            answer, completion = await self._answer(ask, answers.Questions)
            await _check_language(answer.questions, conversation_context, known)
            return answer, completion

        answer, completion = await self._guard.run(ask.call, work)
        questions = list(dict.fromkeys(answer.questions))[:count]
        self._log("vllm_followups_generated", completion, count=len(questions))
        return questions

    async def extract_statements(self, said: Sequence[Utterance]) -> list[answers.Statement]:
        """What users state of themselves in up to TURNS turns of a conversation, numbered from 1."""
        ask = _constrained("extraction", extraction_instruction(said), answers.statements_schema(len(said)))
        answer, completion = await self._run(ask, answers.Statements)
        self._log(
            "vllm_statements_extracted",
            completion,
            turns=len(said),
            count=len(answer.statements),
            extraction_version=EXTRACTION_VERSION,
        )
        return answer.statements

    async def rerank_by_relevance(self, query: str, memories: Sequence[T]) -> list[T]:
        """`memories` (texts, mappings or objects with `content`, or ranked ones), the most relevant first; those
        of one relevance keep their order."""
        relevances = await self.relevances(query, [_content(memory) for memory in memories])
        order = sorted(range(len(memories)), key=lambda index: -relevances[index])
        return [memories[index] for index in order]

    async def relevances(self, query: str, documents: Sequence[str]) -> list[float]:
        """One relevance in 0..1 per document, in order; a call per RERANK_BATCH documents."""
        batches = [documents[start : start + RERANK_BATCH] for start in range(0, len(documents), RERANK_BATCH)]
        if self.state != "closed":  # a breaker that is half open lets one call through at a time
            return [score for batch in batches for score in await self._scored(query, batch)]
        try:
            async with asyncio.TaskGroup() as group:
                scored = [group.create_task(self._scored(query, batch)) for batch in batches]
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from None
        return [score for batch in scored for score in batch.result()]

    async def _scored(self, query: str, batch: Sequence[str]) -> list[float]:
        ask = _constrained("relevance", relevance_instruction(query, batch), answers.relevances_schema(len(batch)))

        async def work() -> tuple[answers.Relevances, Completion]:
            answer, completion = await self._answer(ask, answers.Relevances)
            if len(answer.relevance) != len(batch):
                raise ModelUnavailable("the answer has another number of scores", "wrong_shape")
            return answer, completion

        answer, _ = await self._guard.run(ask.call, work)
        return [value / MOST_RELEVANCE for value in answer.relevance]

    async def _run(self, ask: Ask, kind: type[A]) -> tuple[A, Completion]:
        return await self._guard.run(ask.call, lambda: self._answer(ask, kind))

    async def _answer(self, ask: Ask, kind: type[A]) -> tuple[A, Completion]:
        """A checked answer; one that is in another shape may be repaired once."""
        completion = await self._endpoint.complete(ask)
        try:
            return answers.parse(completion.text, kind), completion
        except ModelUnavailable as error:
            if error.cause not in _REPAIRED or completion.finish_reason == "length":
                raise
        asked = f"{REPAIR}\n{answers.as_text(ask.schema)}"
        again = [
            *ask.messages,
            {"role": "assistant", "content": completion.text[:2000]},
            {"role": "user", "content": asked},
        ]
        log.info("slm_answer_repaired", call=ask.call, slm=self.name)
        repaired = await self._endpoint.complete(ask.with_messages(again))
        return answers.parse(repaired.text, kind), repaired

    def _log(self, event: str, completion: Completion, **values: object) -> None:
        log.info(
            event,
            slm=self.name,
            model=completion.model,
            prompt_version=PROMPT_VERSION,
            seconds=round(completion.seconds, 4),
            **values,
        )


def limits_of(settings: Settings) -> Limits:
    """The limits that `settings` name."""
    return Limits(
        settings.request_budget_s, settings.slm_concurrency, settings.slm_hedge_s, settings.slm_breaker_reset_s
    )


def _constrained(
    call: str,
    instruction: Instruction,
    schema: answers.Schema,
    *,
    temperature: float = 0.0,
    has_logprobs: bool = False,
) -> Ask:
    return Ask(call, instruction.messages, answers.most_tokens(schema), temperature, schema, has_logprobs)


async def _check_language(texts: Sequence[str], user_input: str, context: Mapping[str, Any]) -> None:
    """Raises ModelUnavailable when the answer is in a language the user did not use."""
    memories = [str(memory["content"]) for memory in memories_of(context)]
    turns = [str(turn["content"]) for turn in context.get("conversation") or ()]
    said = [user_input, " ".join([user_input, *turns]), " ".join([user_input, *turns, *memories])]
    if await asyncio.to_thread(language.is_foreign, " ".join(texts), said):
        raise ModelUnavailable("the answer is in another language", "wrong_language")


def _hypotheses(answer: answers.Proposals, completion: Completion, known: int) -> list[ModelHypothesis]:
    means = mean_logprobs(completion.tokens, [one.question for one in answer.hypotheses])
    made: dict[str, ModelHypothesis] = {}
    for one, mean in zip(answer.hypotheses, means, strict=True):
        cited = tuple(dict.fromkeys(number - 1 for number in one.memories if 0 < number <= known))
        made.setdefault(one.question.lower(), ModelHypothesis(one.question, one.request, cited, mean, 0.0))
    unique = list(made.values())
    confidences = probabilities([words_features(one.mean_logprob) for one in unique], WORDS_PRIOR)
    return [replace(one, confidence=confidence) for one, confidence in zip(unique, confidences, strict=True)]


def _content(memory: object) -> str:
    """The text of what may be a text, a mapping, a memory, or a ranked memory."""
    if isinstance(memory, str):
        return memory
    if isinstance(memory, Mapping):
        return str(cast(Mapping[str, Any], memory)["content"])
    held: Any = getattr(memory, "memory", memory)
    return str(held.content)
