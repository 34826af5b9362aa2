"""The judge's report."""

from pathlib import Path

import pytest

from app.domain.promotion import parse_policy
from app.services.training import report
from app.services.training.judge import Judge, Judgement
from app.services.training.report import write_report
from tests.fakes import FakeEmbedder
from tests.judged import CHOSEN, FakeJudged, row, write_rows

METRICS = {
    "before": {"loss": 2.5, "preference_accuracy": 0.4},
    "after": {"loss": 1.25, "preference_accuracy": 0.8},
    "train": [{"step": 1, "loss": 2.4}, {"step": 2, "loss": 1.4}],
    "heldout": [{"step": 0, "loss": 2.5}, {"step": 2, "loss": 1.25}],
}
PLOTS = {"ranking.png", "reliability.png", "latency.png", "training.png"}


async def judged(folder: Path, candidate: FakeJudged, serving: FakeJudged) -> Judgement:
    policy = parse_policy({"rows": {"answered": 8}, "bootstrap": {"resamples": 200}})
    path = write_rows(folder / "rows.jsonl", [row(number) for number in range(40)])
    return await Judge(policy, FakeEmbedder()).judge([path], candidate, serving)


async def test_the_verdict_comes_first_then_the_figures(tmp_path: Path) -> None:
    judgement = await judged(tmp_path, FakeJudged(0.2), FakeJudged(0.9))
    page = write_report(tmp_path / "run", judgement, METRICS)
    text = page.read_text("utf8")

    assert page == tmp_path / "run/judgement/report.md"
    assert text.startswith(f"# Refused\n\n- {judgement.refusals[0]}\n")
    mrr = judgement.figures["mrr"]
    line = next(line for line in text.splitlines() if line.startswith("| `mrr`"))
    assert line == (
        f"| `mrr` | {mrr.candidate:.3f} | {mrr.serving:.3f} | {mrr.difference:+.3f} | {mrr.low:.3f} to {mrr.high:.3f} "
        "| 40 | improves | **no** |"
    )
    assert "| `reward_win_rate` |  |  |  |  | 0 | at least 0.5 | not measured |" in text
    assert "| `loss` | held-out loss | 2.500 | 1.250 |" in text
    assert "| `preference_accuracy` |" in text
    assert "40 held-out choices of 20 users; 8 answered in full" in text


async def test_an_accepted_one_says_so(tmp_path: Path) -> None:
    judgement = await judged(tmp_path, FakeJudged(1.0), FakeJudged(0.1))

    assert write_report(tmp_path, judgement).read_text("utf8").startswith("# Accepted\n")


async def test_every_plot_is_there_and_on_the_page(tmp_path: Path) -> None:
    page = write_report(tmp_path, await judged(tmp_path, FakeJudged(0.9), FakeJudged(0.3)), METRICS)
    text = page.read_text("utf8")

    assert {path.name for path in page.parent.iterdir()} == {"report.md", *PLOTS}
    for name in PLOTS:
        assert f"]({name})" in text
        assert (page.parent / name).read_bytes().startswith(b"\x89PNG")


async def test_without_metrics_there_is_nothing_of_the_training(tmp_path: Path) -> None:
    page = write_report(tmp_path, await judged(tmp_path, FakeJudged(0.9), FakeJudged(0.3)))

    assert "Training" not in page.read_text("utf8")
    assert not (page.parent / "training.png").exists()


async def test_a_judgement_without_figures_has_a_page(tmp_path: Path) -> None:
    page = write_report(tmp_path, await judged(tmp_path, FakeJudged(0.9, silence=1.0), FakeJudged(0.3)))

    assert page.read_text("utf8").startswith("# Refused\n\n- the candidate left")
    assert [path.name for path in page.parent.iterdir()] == ["report.md"]


async def test_the_page_tells_nothing_that_users_said(tmp_path: Path) -> None:
    text = write_report(tmp_path, await judged(tmp_path, FakeJudged(0.9), FakeJudged(0.3)), METRICS).read_text("utf8")

    assert CHOSEN not in text
    assert "subject" not in text
    assert "user1" not in text


async def test_a_report_that_fails_leaves_the_older_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    judgement = await judged(tmp_path, FakeJudged(0.9), FakeJudged(0.3))
    page = write_report(tmp_path / "run", judgement)
    before = {path.name: path.read_bytes() for path in page.parent.iterdir()}

    def fail(*_: object) -> str:
        raise OSError("the disk is full")

    monkeypatch.setattr(report, "_page", fail)
    with pytest.raises(OSError, match="disk is full"):
        write_report(tmp_path / "run", judgement)

    assert {path.name: path.read_bytes() for path in page.parent.iterdir()} == before
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["judgement"]


async def test_a_new_report_replaces_the_older_one_whole(tmp_path: Path) -> None:
    judgement = await judged(tmp_path, FakeJudged(0.9), FakeJudged(0.3))
    write_report(tmp_path / "run", judgement, METRICS)
    page = write_report(tmp_path / "run", judgement)

    assert {path.name for path in page.parent.iterdir()} == {"report.md", *PLOTS - {"training.png"}}
