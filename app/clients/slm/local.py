"""The local SLM: built in, deterministic, no network. Rules over evidence, no language model."""

from collections.abc import Mapping, Sequence

from app.domain import enrichment
from app.domain.hypotheses import HypothesisContext, Reading
from app.domain.labels import Weighed
from app.domain.leanings import heuristic_deltas
from app.domain.persona import Signal
from app.domain.readings import local_readings
from app.domain.summaries import extractive_summary
from app.domain.turns import Stated, Utterance, stated_in
from app.ports import Tokenizer


class LocalSLM:
    """Implements the SLM port with the domain's own rules."""

    name = "local"
    model = None
    prompt_version = None
    state = "closed"

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer

    async def propose_readings(self, context: HypothesisContext, adapter: str | None = None) -> Sequence[Reading]:
        """Candidate readings from the user's own words, choices, peers and the catalogue, best first."""
        return local_readings(context)

    async def weigh_readings(self, context: HypothesisContext, readings: Sequence[Reading]) -> Weighed | None:
        """None: the scores of rules are log-odds already."""
        return None

    async def compute_facet_updates(self, signal: Signal) -> Mapping[str, float]:
        """Facet deltas by plain rules."""
        return heuristic_deltas(signal)

    async def summarize(self, texts: Sequence[str], max_tokens: int) -> str:
        """The sentences that say most, unchanged."""
        return extractive_summary(texts, max_tokens, self._tokenizer.count)

    async def enrich_context(self, context: HypothesisContext) -> Mapping[str, object]:
        """Implicit goals, expertise and next steps from what is known."""
        return enrichment.enrich(context)

    async def generate_followup_questions(
        self, conversation_context: str, context: HypothesisContext, count: int
    ) -> Sequence[str]:
        """Questions about what the conversation leaves open, most important first."""
        return enrichment.followup_questions(conversation_context, context, count)

    async def extract(self, said: Sequence[Utterance]) -> Sequence[Stated]:
        """Statements by plain rules, with the sentences that make them."""
        return stated_in(said)

    async def aclose(self) -> None:
        """Nothing to let go of."""
