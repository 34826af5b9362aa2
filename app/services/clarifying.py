"""Clarifying questions in chats: whether one is put, and what the next turn makes of it.

Nothing is kept between two turns but the hypothesis set in the database: the question is found again by its text, so
any process may serve the answer to it.
"""

from dataclasses import dataclass
from uuid import UUID

import structlog

from app.domain.chat import Chat
from app.domain.chat_context import Meant
from app.domain.clarifying import (
    WORTH_NEED,
    WORTH_SHARE,
    Reply,
    asked_before,
    is_same,
    may_ask,
    may_guess,
    read_reply,
)
from app.domain.hypotheses import Turn, by_rank
from app.domain.remembering import is_made
from app.domain.wording import normalise
from app.request import budget
from app.services.choices import ExecuteRequest
from app.services.context import ContextService
from app.services.feedback import Feedback, FeedbackService
from app.services.hypotheses import HypothesisService, HypothesisSet
from app.store.engine import Database
from app.store.hypotheses import HypothesisStore
from app.store.tables import AnyRow

log = structlog.get_logger(__name__)

LATEST = 50
"""Of a user's questions, how many are looked through for the one that is answered."""

MAX_TURNS = 12
"""Messages of the conversation that an input is read with."""

MAX_INPUT = 2_000

CLARIFY_S = 3.0
"""Most seconds that a language model may think about whether to ask; the built-in rules stand in for it then."""


@dataclass(frozen=True)
class Settled:
    """What a user means by their last message, with the set it comes from (None: it was not kept), and how that is to
    be recorded."""

    set_id: UUID | None
    input_text: str
    meant: Meant
    hypothesis_id: str | None = None
    custom_answer: str | None = None
    rejected_ids: tuple[str, ...] = ()
    is_recorded: bool = False


@dataclass(frozen=True)
class ClarifyingService:
    """Puts clarifying questions, and takes their answers."""

    database: Database
    hypotheses: HypothesisService
    context: ContextService
    feedback: FeedbackService
    store: HypothesisStore

    async def settle(self, tenant_id: str, user_id: str, chat: Chat) -> Settled | None:
        """What the last message makes of the question before it; None where there was none. Raises StoreUnavailable."""
        question = asked_before(chat)
        if question is None:
            return None
        async with self.database.begin(tenant_id) as connection:
            latest = await self.store.latest_asked(connection, tenant_id, user_id, LATEST)
        shown = next((row for row in latest if is_same(question, _options(row))), None)
        if shown is None:
            return None
        reply = read_reply(chat.messages[-1].text, _options(shown))
        settled = _settled(shown, reply)
        kind = "rejected" if reply.is_rejection else "custom" if reply.option is None else "selected"
        log.info("chat_settled", hypothesis_set_id=str(shown.set_id), reply=kind)
        return settled

    async def consider(self, tenant_id: str, user_id: str, chat: Chat, *, is_learned: bool) -> HypothesisSet | None:
        """The readings of a vague input, with what is to be done about them: `ask`, `auto_advance` or `proceed`. None
        where a question is out of place. Where the input is not to be learned from, the set is kept only if its
        question is put. Raises StoreUnavailable, UserErased."""
        if not may_ask(chat) or is_made(chat.messages[-1].text):
            return None
        turns = [Turn(message.role, message.text) for message in chat.messages[:-1] if message.text]
        text = chat.messages[-1].text[:MAX_INPUT].replace("\0", " ")
        with budget(CLARIFY_S):
            proposed = await self.hypotheses.propose(
                tenant_id, user_id, text, conversation=turns[-MAX_TURNS:], by_rank=True
            )
            if is_learned or is_worth_asking(proposed.made):
                await self.hypotheses.keep(proposed, is_learned=is_learned)
        return proposed.made

    async def record(self, tenant_id: str, user_id: str, settled: Settled) -> None:
        """Record and learn from what a user settled on, as `/v1/execute` and `/v1/feedback` do."""
        if settled.is_recorded or settled.meant.is_guess:
            return
        if settled.rejected_ids:
            rejected = Feedback(set_id=settled.set_id, rejected_ids=settled.rejected_ids)
            await self.feedback.give(tenant_id, user_id, rejected)
            return
        request = ExecuteRequest(settled.input_text, settled.set_id, settled.hypothesis_id, settled.custom_answer)
        await self.context.execute(tenant_id, user_id, request)


def is_worth_asking(made: HypothesisSet) -> bool:
    """Whether a question that may be put is put: the decision says so, it helps, and one of its options is likely."""
    likely = sum(one.confidence for one in made.hypotheses)
    return made.decision == "ask" and made.clarification_need >= WORTH_NEED and likely >= WORTH_SHARE


def assumed(made: HypothesisSet, input_text: str, *, is_kept: bool = True) -> Settled | None:
    """The best reading, where the service goes ahead with it: as what is meant where it is as good as sure, else as a
    guess where it is likely and says more than the input."""
    if not made.hypotheses:
        return None
    best = made.hypotheses[0]
    set_id = made.set_id if is_kept else None
    if made.decision == "auto_advance":
        return Settled(set_id, input_text, Meant(best.request), best.id)
    is_likely = may_guess([one.confidence for one in made.hypotheses], made.clarification_need)
    if not is_likely or normalise(best.request) == normalise(input_text):
        return None
    log.info("chat_guessed", hypothesis_set_id=str(set_id) if set_id else None, confidence=round(best.confidence, 4))
    return Settled(set_id, input_text, Meant(best.request, is_guess=True), best.id)


def _options(shown: AnyRow) -> list[str]:
    return [each["question"] for each in by_rank(shown.hypotheses)]


def _settled(shown: AnyRow, reply: Reply) -> Settled:
    is_recorded = shown.outcome is not None  # asked for once more
    if reply.is_rejection:
        ids = tuple(each["id"] for each in shown.hypotheses)
        return Settled(shown.set_id, shown.input_text, Meant(), rejected_ids=ids, is_recorded=is_recorded)
    if reply.option is None:
        meant = Meant(f"{shown.input_text}. {reply.words}", is_said=True)
        return Settled(shown.set_id, shown.input_text, meant, custom_answer=reply.words, is_recorded=is_recorded)
    chosen = by_rank(shown.hypotheses)[reply.option]
    meant = Meant(f"{chosen['request']}. {reply.words}" if reply.words else chosen["request"])
    return Settled(shown.set_id, shown.input_text, meant, chosen["id"], reply.words or None, is_recorded=is_recorded)
