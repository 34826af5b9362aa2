"""The SLM port on a language model: domain values in, a client's calls, domain values out."""

import asyncio
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from app.clients.slm import answers
from app.clients.slm.builtin import BuiltinServer, find_model
from app.clients.slm.resilience import Limits, reject
from app.clients.slm.vllm import ModelHypothesis, VLLMClient
from app.domain import wording
from app.domain.extracting import TURNS
from app.domain.hypotheses import HypothesisContext, Reading
from app.domain.instructions import EXAMPLE_WORDS, offered, told
from app.domain.labels import Weighed
from app.domain.memory import MemoryType
from app.domain.persona import Signal
from app.domain.ranking import Ranked
from app.domain.readings import VALUE_SEPARATOR
from app.domain.redaction import redact
from app.domain.sampling import Sampling
from app.domain.turns import Stated, Utterance
from app.settings import Settings

MIN_LETTERS_SHARE = 0.4
"""A line with fewer letters than this comes from a model that lost its way into digits and signs."""

_TAKEN_OUT = re.compile(r"\[[A-Z_]+\]")
"""What stands for details that a model does not get to read."""

FEW_ORDERS = 2
"""In which readings are weighed where every order is paid for: by a core of this machine, or by the token."""

UNSUPPORTED = "A likely reading; nothing you told me before speaks for it or against it."


class ModelSLM:
    """Implements the SLM port with a `VLLMClient`. Raises ModelUnavailable as the client does."""

    def __init__(self, client: VLLMClient) -> None:
        self.client = client
        self.name = client.name

    @property
    def model(self) -> str:
        """The model that answers; the server's address until it has named its model."""
        return self.client.model or self.client.address

    @property
    def prompt_version(self) -> str | None:
        """The version of the prompts its answers come from."""
        return self.client.prompt_version

    @property
    def state(self) -> str:
        """The breaker's: `closed`, `open` or `half_open`."""
        return self.client.state

    async def propose_readings(self, context: HypothesisContext, adapter: str | None = None) -> Sequence[Reading]:
        """The model's readings, each with the memories it demonstrably rests on."""
        memories = offered(context.memories)
        known = _known(context, memories)
        made = await self.client.generate_hypotheses(context.input_text, known, context.count, adapter=adapter)
        readings = [as_reading(one, memories, context) for one in made]
        about = [
            one
            for one in readings
            if (one.evidence or is_about(one, context.input_text))
            and is_worded(one.question)
            and not is_copied(one, context, memories)
        ]
        if not about:
            raise reject("hypotheses", "no reading has to do with the input", "off_topic")
        return about

    async def weigh_readings(self, context: HypothesisContext, readings: Sequence[Reading]) -> Weighed | None:
        """The model's log-odds of each reading, by the labels that they are shown under. The model is the base model:
        adapters are trained to write readings."""
        if not readings:
            return None
        known = _known(context, offered(context.memories))
        return await self.client.weigh(context.input_text, known, [reading.request for reading in readings])

    async def compute_facet_updates(self, signal: Signal) -> Mapping[str, float]:
        """The model's facet deltas for one signal."""
        values = {name: facet.value for name, facet in signal.facets.items()}
        return await self.client.compute_facet_updates(signal.document, values)

    async def summarize(self, texts: Sequence[str], max_tokens: int) -> str:
        """The gist of `texts`."""
        return await self.client.summarize(texts, max_tokens)

    async def enrich_context(self, context: HypothesisContext) -> Mapping[str, object]:
        """Implicit goals, expertise and next steps."""
        known = _known(context, offered(context.memories))
        enrichment = (await self.client.enrich_context(context.input_text, known))["enrichment"]
        lists = {name: readable("enrichment", enrichment[name]) for name in ("implicit_goals", "next_steps")}
        return {**enrichment, **lists}

    async def generate_followup_questions(
        self, conversation_context: str, context: HypothesisContext, count: int
    ) -> Sequence[str]:
        """Questions that move the conversation on."""
        known = _known(context, offered(context.memories))
        questions = await self.client.generate_followup_questions(conversation_context, count=count, context=known)
        return readable("followups", questions)

    async def extract(self, said: Sequence[Utterance]) -> Sequence[Stated]:
        """The model's statements, as far as the turn that it names has the words that it quotes."""
        found: list[Stated] = []
        for start in range(0, len(said), TURNS):
            part = said[start : start + TURNS]
            if any(each.role == "user" for each in part):
                made = await self.client.extract_statements(part)
                found += [replace(each, position=start + each.position) for each in as_stated(made, part)]
        return found

    async def aclose(self) -> None:
        """Close the connections."""
        await self.client.aclose()


class BuiltinSLM(ModelSLM):
    """A small model in a child process beside the service."""

    def __init__(self, client: VLLMClient, server: BuiltinServer) -> None:
        super().__init__(client)
        self.server = server

    @classmethod
    async def open(
        cls, settings: Settings, limits: Limits, sampling: Callable[[str], Sampling] | None = None
    ) -> "BuiltinSLM":
        """Start the child and the client, with a role's parameters for each call. Raises ModelUnavailable."""
        model = await asyncio.to_thread(find_model, settings.builtin_model, settings.local_models_dir)
        server = BuiltinServer(model, settings.log_dir / "builtin-model.log")
        await server.start()
        client = VLLMClient(
            server.base_url,
            server.model,
            name="builtin",
            api_key=server.api_key,
            limits=limits,
            sampling=sampling,
            label_orders=FEW_ORDERS,
        )
        return cls(client, server)

    async def aclose(self) -> None:
        """Close the connections and end the child."""
        try:
            await super().aclose()
        finally:
            await self.server.aclose()


class SLMReranker:
    """The Reranker port on the chat model, a constrained call for every ten documents."""

    def __init__(self, slm: ModelSLM) -> None:
        self._slm = slm

    @property
    def model(self) -> str:
        """The chat model."""
        return self._slm.model

    async def rerank(self, query: str, documents: Sequence[str]) -> Sequence[float]:
        """One relevance in 0..1 per document, in order. Raises ModelUnavailable."""
        return await self._slm.client.relevances(query, documents)

    async def aclose(self) -> None:
        """Nothing: the model is closed by its owner."""


def as_reading(made: ModelHypothesis, memories: Sequence[Ranked], context: HypothesisContext) -> Reading:
    """A model's hypothesis as a reading that was not weighed yet. A memory counts as its evidence when the reading says
    something that the memory says and the input does not; what the model merely cites without using does not count."""
    text = f"{made.question} {made.request}"
    new = set(wording.content_words(text)) - set(wording.content_words(context.input_text))
    shared = {
        index: len(new & set(wording.content_words(ranked.memory.content))) for index, ranked in enumerate(memories)
    }
    cited = set(made.memories)
    found = sorted(
        (index for index, words in shared.items() if words >= (1 if index in cited else 2)),
        key=lambda index: (-shared[index], index),
    )[:3]
    said = context.catalogue.values_in(context.input_text)
    values = context.catalogue.values_in(text)
    return Reading(
        question=made.question,
        request=made.request,
        rationale=_rationale([memories[index] for index in found]),
        score=0.0,
        origin="model",
        slots={slot: VALUE_SEPARATOR.join(each) for slot, each in values.items() if slot not in said},
        evidence=tuple(memories[index].memory.memory_id for index in found),
    )


def as_stated(made: Sequence[answers.Statement], said: Sequence[Utterance]) -> list[Stated]:
    """A model's statements: of a user, by a quote that stands in the turn, about nothing that was taken out of it."""
    found: dict[tuple[int, str], Stated] = {}
    for one in made:
        position = one.turn - 1
        if not 0 <= position < len(said) or said[position].role != "user":
            continue
        quote = _quoted(one.quote, said[position].content)
        if quote is None or _TAKEN_OUT.search(one.content) or one.type is MemoryType.HISTORY:
            continue
        stated = Stated(position, one.type, one.content, quote, one.confidence / 100)
        found.setdefault((position, wording.normalise(one.content)), stated)
    return list(found.values())


def _quoted(quote: str, content: str) -> str | None:
    """The quote as it stands in a text, whatever its spaces, case and marks at the end; None where it does not."""
    spoken = [re.escape(word) for word in quote.strip(" .,;:!?\"'“”…").split()]
    match = re.search(r"\s+".join(spoken), content, re.IGNORECASE) if spoken else None
    return None if match is None else match.group()


def is_about(reading: Reading, input_text: str) -> bool:
    """Whether a reading takes up any word of the input; of a script without spaces, any two letters in a row. A
    small model sometimes answers what nobody asked."""
    said = f"{reading.question} {reading.request}".lower()
    terms = wording.content_words(input_text) or wording.words(input_text)
    pieces = [
        term[at : at + 2] if not term.isascii() else term
        for term in terms
        for at in range(1 if term.isascii() else max(1, len(term) - 1))
    ]
    return not pieces or any(piece in said for piece in pieces)


def is_worded(text: str) -> bool:
    """Whether a text is made of letters in the main."""
    return sum(character.isalpha() for character in text) >= MIN_LETTERS_SHARE * len(text)


def readable(call: str, lines: Sequence[str]) -> list[str]:
    """The lines that are worded, each once. Raises ModelUnavailable when none is."""
    kept = list(dict.fromkeys(line for line in lines if is_worded(line)))
    if not kept:
        raise reject(call, "the answer holds no words", "off_topic")
    return kept


def is_copied(reading: Reading, context: HypothesisContext, memories: Sequence[Ranked]) -> bool:
    """Whether a reading repeats the example of the instructions instead of reading the input."""
    said = [context.input_text, *(turn.content for turn in context.conversation)]
    own = {word for text in [*said, *(each.memory.content for each in memories)] for word in wording.words(text)}
    return bool((EXAMPLE_WORDS & set(wording.words(f"{reading.question} {reading.request}"))) - own)


def _rationale(evidence: Sequence[Ranked]) -> str:
    if not evidence:
        return UNSUPPORTED
    said = " and ".join(f"“{wording.snippet(redact(each.memory.content).text, 24)}”" for each in evidence[:2])
    return f"You said {said}."


def _known(context: HypothesisContext, memories: Sequence[Ranked]) -> dict[str, Any]:
    """What instructions tell of a context: the facets known well enough to shape an answer, memories, conversation."""
    return {
        "persona_facets": {name: facet.value for name, facet in context.facets.items() if facet.is_expressed},
        "memories": [told(each) for each in memories],
        "conversation": [{"role": turn.role, "content": turn.content} for turn in context.conversation],
    }
