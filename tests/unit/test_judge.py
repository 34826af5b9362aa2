"""The judge with models that know the user's choice as well as they are told to."""

import asyncio
import sys
from pathlib import Path

import orjson
import pytest

from app.domain.errors import InvalidInput, ModelUnavailable
from app.domain.promotion import Policy, parse_policy
from app.services.training import ratings
from app.services.training.judge import Judge, Judgement, read_choices
from tests.fakes import FakeEmbedder
from tests.judged import CHOSEN, FakeJudged, row, write_rows

POLICY = parse_policy(
    {"rows": {"answered": 20}, "bootstrap": {"resamples": 400}, "gates": {"latency_ratio": {"at_most": 1.25}}}
)


@pytest.fixture(scope="module")
def heldout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 choices of 20 users."""
    folder = tmp_path_factory.mktemp("rows")
    return write_rows(folder / "hypotheses_chat.heldout.jsonl", [row(number) for number in range(60)])


async def judged(heldout: Path, candidate: FakeJudged, serving: FakeJudged, policy: Policy = POLICY) -> Judgement:
    return await Judge(policy, FakeEmbedder()).judge([heldout], candidate, serving)


async def test_a_better_candidate_is_accepted(heldout: Path) -> None:
    found = await judged(heldout, FakeJudged(0.9), FakeJudged(0.3))

    assert found.is_accepted, found.refusals
    assert (found.rows, found.users, found.answered) == (60, 20, 20)
    for name in ("mrr", "hit@1", "answer_mrr", "answer_hit@1"):
        figure = found.figures[name]
        assert figure.candidate is not None
        assert figure.serving is not None
        assert figure.low is not None
        assert figure.candidate - figure.serving >= figure.low > 0, name
    assert found.figures["schema_validity"].candidate == 1.0
    assert found.verdict.passed["reward_win_rate"] is None


async def test_an_equal_candidate_is_refused_because_nothing_improves(heldout: Path) -> None:
    found = await judged(heldout, FakeJudged(0.6), FakeJudged(0.6))

    (refusal,) = found.refusals
    assert "mrr" in refusal
    assert "no better (95 % interval of the gain 0.000 to 0.000)" in refusal


async def test_a_worse_candidate_is_refused_by_how_much(heldout: Path) -> None:
    found = await judged(heldout, FakeJudged(0.3), FakeJudged(0.9))

    mrr = found.figures["mrr"]
    assert not found.is_accepted
    assert mrr.difference is not None
    assert mrr.low is not None
    assert mrr.high is not None
    assert mrr.difference < -0.2
    said = f"worse by {-mrr.difference:.3f} (95 % interval {-mrr.high:.3f} to {-mrr.low:.3f})"
    assert any(refusal.startswith("mrr") and said in refusal for refusal in found.refusals), found.refusals


async def test_a_slow_candidate_and_one_without_shape_are_refused(heldout: Path) -> None:
    found = await judged(heldout, FakeJudged(0.9, seconds=3.0, is_valid=False), FakeJudged(0.3, seconds=2.0))

    assert found.refusals == (
        "schema_validity 0.000 against 1.000 of the serving model: worse by 1.000 (95 % interval 1.000 to 1.000), and "
        "at most 0.1 is allowed",
        "latency_ratio 1.5 is 0.25 above 1.25",
    )


async def test_a_silent_candidate_is_refused_and_soon_asked_no_more(heldout: Path) -> None:
    candidate = FakeJudged(0.9, silence=1.0)
    found = await judged(heldout, candidate, FakeJudged(0.3))

    assert len(candidate.asked) < 15
    assert found.unanswered.candidate == len(candidate.asked)
    assert found.unanswered.serving == 0
    (refusal,) = found.refusals
    assert refusal.startswith(f"the candidate left {len(candidate.asked)} of")
    assert found.figures["mrr"].candidate is None


async def test_what_one_model_leaves_unanswered_counts_for_neither(heldout: Path) -> None:
    policy = parse_policy({"rows": {"answered": 20, "unanswered": 1.0}, "bootstrap": {"resamples": 400}})
    found = await judged(heldout, FakeJudged(0.9, silence=0.2), FakeJudged(0.3), policy)

    assert found.unanswered.candidate > 0
    assert found.unanswered.serving == 0
    assert found.rows + found.answered + found.figures["schema_validity"].rows == (
        found.unanswered.asked - found.unanswered.candidate
    )
    assert found.figures["mrr"].rows == found.rows < 60


async def test_the_order_of_rows_and_files_changes_nothing(heldout: Path, tmp_path: Path) -> None:
    lines = [row(number) for number in range(60)]
    files = [write_rows(tmp_path / "a.jsonl", lines[:20:-1]), write_rows(tmp_path / "b.jsonl", lines[:21])]
    candidate, serving = FakeJudged(0.8), FakeJudged(0.4)
    policy = parse_policy({"rows": {"most": 40, "answered": 5}, "bootstrap": {"resamples": 400}})

    one = await judged(heldout, candidate, serving, policy)
    other = await Judge(policy, FakeEmbedder()).judge(files, candidate, serving)

    assert one.figures == other.figures
    assert one.rows == 40


async def test_too_few_rows_are_judged_and_refused(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "few.jsonl", [row(number) for number in range(12)])
    found = await judged(path, FakeJudged(1.0), FakeJudged(0.0))

    assert found.refusals == ("12 held-out choices can be judged: at least 30 are needed, 18 more",)
    assert found.figures["hit@1"].candidate == 1.0


async def test_the_document_is_json_and_tells_nothing_that_users_said(heldout: Path) -> None:
    found = await Judge(POLICY, FakeEmbedder()).judge(
        [heldout], FakeJudged(0.9), FakeJudged(0.3), metrics={"before": {"loss": 2.0}, "after": {"loss": 1.0}}
    )
    text = orjson.dumps(found.document()).decode()
    document = orjson.loads(text)

    assert document["is_accepted"] is True
    assert document["figures"]["mrr"]["difference"] == pytest.approx(found.figures["mrr"].difference)
    assert document["training"] == {"before": {"loss": 2.0}, "after": {"loss": 1.0}}
    assert document["policy"]["gates"]["mrr"] == {"improves": True}
    assert CHOSEN not in text
    assert "user1" not in text


async def test_progress_is_told_by_stage(heldout: Path) -> None:
    told: list[tuple[str, int, int]] = []

    await Judge(POLICY, FakeEmbedder()).judge(
        [heldout], FakeJudged(0.9), FakeJudged(0.3), on_progress=lambda *step: told.append(step)
    )

    assert {stage: total for stage, done, total in told if done == total} == {
        "likelihoods": 60,
        "answers": 20,
        "validity": 20,
        "intervals": 1,
    }


async def test_a_judgement_can_be_cancelled(heldout: Path) -> None:
    class Endless(FakeJudged):
        async def likelihoods(self, messages: object, requests: object) -> list[float]:
            await asyncio.sleep(3600)
            return []

    task = asyncio.create_task(judged(heldout, Endless(1.0), FakeJudged(0.3)))
    await asyncio.sleep(0.05)
    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(task, 5)


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    broken = tmp_path / "broken.jsonl"
    broken.write_text("{\n")

    with pytest.raises(InvalidInput, match=r"missing\.jsonl"):
        read_choices([tmp_path / "missing.jsonl"])
    with pytest.raises(InvalidInput, match=r"broken\.jsonl holds a line that is no JSON"):
        read_choices([broken])


RATES_BY_LENGTH = """
import json, sys
for line in sys.stdin:
    print(json.dumps({"rating": len(json.loads(line)["messages"][-1]["content"])}))
"""


def reward_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> Path:
    """A folder that looks like a reward model, and a script in the real one's place."""
    (tmp_path / "script.py").write_text(script)
    monkeypatch.setattr(ratings, "_SCRIPT", tmp_path / "script.py")
    folder = tmp_path / "reward"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    return folder


async def test_a_reward_model_says_whose_answers_are_better(
    heldout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here the longer answer is the better one: that of the model that does not know the choice."""
    folder = reward_model(tmp_path, monkeypatch, RATES_BY_LENGTH)
    judge = Judge(POLICY, FakeEmbedder(), Path(sys.executable))

    found = await judge.judge([heldout], FakeJudged(1.0), FakeJudged(0.0), reward_model=folder)

    assert found.figures["reward_win_rate"].candidate == 0.0
    assert found.refusals == ("reward_win_rate 0 is 0.5 below 0.5",)


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("import sys; sys.exit('no such model')", "does not rate: no such model"),
        ("print('{}')", "a rating that is no number"),
        ("pass", "rated 0 of 40 answers"),
    ],
)
async def test_a_reward_model_that_fails_ends_the_judgement(
    heldout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, said: str
) -> None:
    folder = reward_model(tmp_path, monkeypatch, script)

    with pytest.raises(ModelUnavailable, match=said):
        await Judge(POLICY, FakeEmbedder(), Path(sys.executable)).judge(
            [heldout], FakeJudged(1.0), FakeJudged(0.0), reward_model=folder
        )


async def test_a_missing_reward_model_is_told_before_anything_is_asked(heldout: Path, tmp_path: Path) -> None:
    candidate = FakeJudged(1.0)

    with pytest.raises(ModelUnavailable, match="setup_training"):
        await Judge(POLICY, FakeEmbedder()).judge([heldout], candidate, candidate, reward_model=tmp_path)
    with pytest.raises(ModelUnavailable, match="no reward model in"):
        await Judge(POLICY, FakeEmbedder(), Path(sys.executable)).judge(
            [heldout], candidate, candidate, reward_model=tmp_path
        )
    assert candidate.asked == []
