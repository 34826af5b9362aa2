"""What runs are called and trained on, whom they answer, and what commands take and print of them."""

import dataclasses
import inspect
from datetime import UTC, datetime
from pathlib import Path

import pytest
from rich.console import Console

from app.api.training_schemas import OptionsIn
from app.commands import training_tables
from app.commands.training import run as run_command
from app.commands.training_options import GIVEN_OTHERWISE
from app.domain.deployments import Arm, Route
from app.domain.errors import InvalidInput, NotReady
from app.domain.runs import answered_share, check_judgeable, dataset_for, is_run_id, new_run_id
from app.services.deployments import DeploymentStatus
from app.services.training.run_files import RunFolder
from app.services.training.runs import Run
from app.services.training.scripts import TrainingOptions

MOMENT = datetime(2026, 11, 21, 20, 35, 12, tzinfo=UTC)


def test_a_run_s_name_tells_method_and_moment_and_is_known_as_one() -> None:
    name = new_run_id("sft", MOMENT, "9f3ab2c41d")
    assert name == "sft-20261121t203512-9f3ab2c41d"
    assert is_run_id(name)
    for other in (
        "by-hand",
        f"{name}0",
        name.upper(),
        f"{name}/adapter",
        f"{name}\n",
        "ppo-20261121t203512-9f3ab2c41d",
    ):
        assert not is_run_id(other), other


@pytest.mark.parametrize(
    ("method", "asked", "file"),
    [
        ("sft", None, "hypotheses_chat"),
        ("sft", "facets", "facets_chat"),
        ("grpo", None, "hypotheses_chat"),
        ("dpo", None, "preferences"),
        ("reward", "preferences", "preferences"),
        ("dpo", "hypotheses", None),
        ("grpo", "rerank", None),
        ("sft", "preferences", None),
        ("sft", "nonsense", None),
    ],
)
def test_a_method_takes_the_datasets_of_its_shape(method: str, asked: str | None, file: str | None) -> None:
    if file is not None:
        assert dataset_for(method, asked) == file
        return
    with pytest.raises(InvalidInput) as refused:
        dataset_for(method, asked)
    assert refused.value.field == "dataset"


def test_only_trained_writers_are_judged() -> None:
    for status in ("trained", "accepted", "refused"):
        check_judgeable("r", "dpo", status)
    for method, status in (("reward", "trained"), ("sft", "training"), ("sft", "failed")):
        with pytest.raises(NotReady):
            check_judgeable("r", method, status)


def test_the_shares_of_a_route_add_up() -> None:
    route = Route(("old", "stable"), "new", 0.25)
    assert [answered_share(route, name) for name in ("old", "stable", "new", "none")] == [0.0, 0.75, 0.25, 0.0]
    assert answered_share(Route(("stable",)), "stable") == 1.0
    assert answered_share(Route(), "stable") == 0.0


def test_every_hyper_parameter_is_an_option_of_the_command_and_a_field_over_http_with_its_default() -> None:
    own = {
        field.name: field.default for field in dataclasses.fields(TrainingOptions) if field.name not in GIVEN_OTHERWISE
    }
    taken = {name: each.default for name, each in inspect.signature(run_command).parameters.items()}
    assert {name: taken[name] for name in own} == own
    assert OptionsIn().model_dump() == own
    assert OptionsIn().options() == TrainingOptions()


def test_checkpoints_go_at_once_or_are_marked(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    rows = folder.checkpoints / "abc" / "rows"
    rows.mkdir(parents=True)
    folder.drop_marked()
    assert rows.exists(), "nobody was erased"
    assert folder.drop_checkpoints()
    assert not folder.checkpoints.exists()
    assert folder.drop_checkpoints(), "nothing is there"


def test_progress_is_the_last_whole_line(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    assert folder.progress() is None
    folder.checkpoints.mkdir()
    folder.progress_file.write_text("")
    assert folder.progress() is None
    folder.progress_file.write_text('{"step": 1, "total": 9}\n{"step": 2, "total": 9}\n{"step": 3, "to')
    assert folder.progress() == {"step": 2, "total": 9}


def test_the_last_lines_of_a_log_are_kept_whatever_bytes_it_holds(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    assert folder.last_lines() == []
    folder.log.write_bytes(b"\xff first\n" + b"".join(b"line %d\n" % number for number in range(30)))
    assert folder.last_lines() == [f"line {number}" for number in range(10, 30)]


def test_tables_name_runs_whole_on_a_narrow_terminal() -> None:
    name = new_run_id("reward", MOMENT, "9f3ab2c41d")
    run = Run(name, "reward", "org/a-model-of-a-long-name", Path("x"), "trained", MOMENT, MOMENT, {}, None, 0, 0.25)
    status = DeploymentStatus(Route((name,), f"{name[:-1]}e", 0.1), MOMENT, Arm(20, 15), Arm(10, 5), 0.125)
    console = Console(width=80, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    for table in (training_tables.of_runs([run]), training_tables.of_run(run), training_tables.of_status(status)):
        console.print(table)
    shown = console.export_text()
    assert shown.count(name) == 3
    for part in ("25%", "0.750", "0.500", "0.125", "90%", "10%"):
        assert part in shown, part
