"""Routes: from a vague input to an enriched prompt, and what was thought of it."""

from app.api import schemas
from app.api.deps import ServicesDep, UserCaller
from app.api.errors import responses
from app.api.routing import cancellable, make_router
from app.domain.hypotheses import Hypothesis, Turn
from app.services.answers import Answered
from app.services.choices import ExecuteRequest
from app.services.context import Execution
from app.services.feedback import Feedback
from app.services.hypotheses import HypothesisSet

router = make_router("hypotheses", "/v1")


@router.post("/hypothesize", responses=responses(409))
@cancellable
async def hypothesize(body: schemas.HypothesizeIn, services: ServicesDep, caller: UserCaller) -> schemas.HypothesizeOut:
    """Propose what a short, vague input means, and decide whether to ask."""
    turns = [Turn(turn.role, turn.content) for turn in body.conversation]
    made = await services.hypotheses.hypothesize(
        caller.tenant_id, body.user_id, body.input_text, conversation=turns, count=body.count, by_rank=body.by_rank
    )
    return _made(made)


@router.post("/answer", responses=responses(404, 409))
@cancellable
async def answer_question(body: schemas.AnswerIn, services: ServicesDep, caller: UserCaller) -> schemas.HypothesizeOut:
    """Say how a question was answered: what the input may mean by now, and whether to ask further."""
    answered = Answered(body.hypothesis_id, body.rejected_ids, body.answer or "")
    return _made(
        await services.answers.answer(
            caller.tenant_id, body.user_id, body.hypothesis_set_id, answered, count=body.count
        )
    )


@router.post("/execute", responses=responses(404, 409))
@cancellable
async def execute(body: schemas.ExecuteIn, services: ServicesDep, caller: UserCaller) -> schemas.ExecuteOut:
    """Turn the chosen hypothesis, a custom answer or the bare input into one enriched prompt."""
    request = ExecuteRequest(
        body.input_text, body.hypothesis_set_id, body.hypothesis_id, body.custom_answer, body.token_budget
    )
    return _execution(await services.context.execute(caller.tenant_id, body.user_id, request))


@router.post("/feedback", responses=responses(404, 409))
async def give_feedback(body: schemas.FeedbackIn, services: ServicesDep, caller: UserCaller) -> schemas.FeedbackOut:
    """Say how an execution or a hypothesis set was received."""
    feedback = Feedback(
        body.execution_id, body.hypothesis_set_id, body.success, body.rating, body.comment, body.rejected_ids
    )
    deltas = await services.feedback.give(caller.tenant_id, body.user_id, feedback)
    return schemas.FeedbackOut(facet_deltas=dict(deltas))


@router.post("/preferences", responses=responses(404, 409))
async def prefer(body: schemas.PreferenceIn, services: ServicesDep, caller: UserCaller) -> schemas.Accepted:
    """Say which of two wordings is better."""
    await services.feedback.prefer(
        caller.tenant_id,
        body.user_id,
        hypothesis_a=body.hypothesis_a,
        hypothesis_b=body.hypothesis_b,
        preferred=body.preferred,
        reward=body.reward,
    )
    return schemas.Accepted()


@router.post("/followups", responses=responses())
@cancellable
async def followups(body: schemas.FollowupsIn, services: ServicesDep, caller: UserCaller) -> schemas.FollowupsOut:
    """Questions that move a conversation on."""
    questions, is_degraded = await services.reflection.followups(
        caller.tenant_id, body.user_id, body.conversation_context, body.count
    )
    return schemas.FollowupsOut(questions=list(questions), degraded=is_degraded)


@router.post("/enrich", responses=responses())
@cancellable
async def enrich(body: schemas.EnrichIn, services: ServicesDep, caller: UserCaller) -> schemas.EnrichOut:
    """What an input implies beyond its words."""
    enrichment, is_degraded = await services.reflection.enrich(caller.tenant_id, body.user_id, body.input_text)
    return schemas.EnrichOut(enrichment=schemas.Enrichment.model_validate(enrichment), degraded=is_degraded)


def _made(made: HypothesisSet) -> schemas.HypothesizeOut:
    return schemas.HypothesizeOut(
        hypothesis_set_id=made.set_id,
        decision=made.decision,
        auto_advance=made.decision == "auto_advance",
        clarification_need=made.clarification_need,
        expected_gain=made.decided.gain,
        hypotheses=[_hypothesis(one) for one in made.hypotheses],
        source=made.source,
        model=made.adapter or made.model,
        adapter=made.adapter,
        degraded=made.is_degraded,
        calibration_version=made.calibration_version,
    )


def _hypothesis(one: Hypothesis) -> schemas.HypothesisOut:
    return schemas.HypothesisOut(
        id=one.id,
        rank=one.rank,
        question=one.question,
        rationale=one.rationale,
        confidence=one.confidence,
        evidence=list(one.evidence),
    )


def _execution(execution: Execution) -> schemas.ExecuteOut:
    prompt = execution.prompt
    return schemas.ExecuteOut(
        execution_id=execution.execution_id,
        enriched_prompt=prompt.text,
        messages=[schemas.Message(**message) for message in prompt.messages],
        tokens_estimate=prompt.tokens,
        context_breakdown=schemas.ContextBreakdown(**prompt.breakdown),
        memories_used=[
            schemas.MemoryUse(id=use.memory_id, score=use.score, section=use.section) for use in prompt.uses
        ],
        redactions=dict(prompt.redactions),
        degraded=execution.is_degraded,
    )
