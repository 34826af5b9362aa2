"""What a bundle is built of: rows in any usual shape, checked; flags over a configuration; the adapter registry."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from app.commands.bundle import main, make_parser, read_config
from app.domain.adapters import Adapter, Registry, parse_registry
from app.domain.bundles import KNOBS, BundlePlan, merged
from app.domain.conversations import Conversation, conversation_of
from app.domain.deployments import Route
from app.domain.errors import InvalidInput
from app.services.training.bundle_rows import EVAL_FILE, TRAIN_FILE, RowCheck, Source, tokenizer_of
from app.services.training.bundles import options_of
from app.services.training.registry import AdapterRegistry
from app.services.training.scripts import TrainingOptions

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)
ASK, ANSWER = {"role": "user", "content": "build api"}, {"role": "assistant", "content": "with FastAPI"}
SYSTEM = {"role": "system", "content": "Be short."}
USER = "0123456789abcdef0123456789abcdef"


@pytest.mark.parametrize(
    ("row", "prompt"),
    [
        ({"prompt": "build api", "completion": "with FastAPI"}, [ASK]),
        ({"prompt": [SYSTEM, ASK], "completion": [ANSWER]}, [SYSTEM, ASK]),
        ({"messages": [SYSTEM, ASK, ANSWER]}, [SYSTEM, ASK]),
        ({"question": "build api", "answer": "with FastAPI"}, [ASK]),
        ({"instruction": "build api", "input": "", "output": "with FastAPI", "system": "Be short."}, [SYSTEM, ASK]),
        (
            {"instruction": "build", "input": "api", "response": "with FastAPI"},
            [{"role": "user", "content": "build\n\napi"}],
        ),
        (
            {"conversations": [{"from": "human", "value": "build api"}, {"from": "gpt", "value": "with FastAPI"}]},
            [ASK],
        ),
    ],
)
def test_the_usual_shapes_are_conversations(row: dict[str, Any], prompt: list[dict[str, str]]) -> None:
    assert conversation_of(row) == Conversation(prompt, [ANSWER])


@pytest.mark.parametrize(
    "row",
    [
        None,
        [],
        "text",
        {},
        {"prompt": "a"},
        {"prompt": "a", "completion": " "},
        {"prompt": 1, "completion": "b"},
        {"messages": [ANSWER]},
        {"messages": [ANSWER, ASK]},
        {"messages": [ASK, {"role": "oracle", "content": "b"}]},
        {"messages": [ASK, {"role": "assistant", "content": None}]},
        {"prompt": "a", "completion": [ASK]},
    ],
)
def test_what_is_no_conversation_is_none(row: object) -> None:
    assert conversation_of(row) is None


def test_label_and_user_come_from_the_row_or_its_meta() -> None:
    row = {"prompt": "a", "completion": "b", "meta": {"label": "shown as 1 of 3", "user": USER}}
    found, other = conversation_of(row), conversation_of({**row, "label": "mine", "meta": {"user": "anna@x.org"}})
    assert found is not None
    assert other is not None
    assert (found.label, found.user) == ("shown as 1 of 3", USER)
    assert (other.label, other.user) == ("mine", ""), "a name is no key"


def write(path: Path, *rows: object) -> Source:
    path.write_text("".join(row if isinstance(row, str) else json.dumps(row) + "\n" for row in rows))
    return Source(path, path.name)


def check(folder: Path | None, train: Source, evaluation: Source | None = None) -> dict[str, Any]:
    counted = RowCheck(lambda text: len(text.split()), max_tokens=60, near_duplicate=0.8)
    return counted.run(train, evaluation, folder, lambda done, total: None)


def test_rows_are_checked_by_the_rules_of_the_service_s_own_datasets(tmp_path: Path) -> None:
    pytest.importorskip("datasketch")
    words = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen".split()
    near = {"prompt": " ".join(words), "completion": "yes", "label": "a"}
    held = {"prompt": "what is held out", "completion": "an answer of its own"}
    train = write(
        tmp_path / "chats.jsonl",
        near,
        {**near, "prompt": " ".join([*words, "sixteen"])},
        near,
        {"prompt": "write to anna@example.org", "completion": "done", "label": "b"},
        held,
        {"prompt": "long", "completion": "word " * 80},
        {"prompt": "no answer"},
        "{broken\n",
        "\n",
        "null\n",
    )
    summary = check(tmp_path, train, write(tmp_path / "held.jsonl", held))

    found = summary["datasets"]["train"]
    assert found["dropped"] == {
        "duplicate": 1,
        "duplicate_of_eval": 1,
        "malformed": 2,
        "near_duplicate": 1,
        "too_long": 1,
    }
    assert (found["samples_in"], found["samples_out"]) == (8, 2)
    assert found["damaged_lines"] == {"count": 1, "first": [8]}
    assert found["duplicate_rate"] == 3 / 8
    assert found["redacted"] == {"EMAIL": 1}
    assert found["label_balance"] == {"labels": 2, "largest_share": 0.5, "unlabelled": 0}
    assert found["prompt"]["tokens"]["max"] == 15 + 4
    assert summary["datasets"]["eval"]["samples_out"] == 1
    written = (tmp_path / TRAIN_FILE).read_text()
    assert "anna@" not in written
    assert "[EMAIL]" in written
    assert [json.loads(line)["meta"]["label"] for line in written.splitlines()] == ["a", "b"]
    assert (tmp_path / EVAL_FILE).read_text().count("\n") == 1
    assert check(None, train, Source(tmp_path / "held.jsonl", "held.jsonl"))["files"] == summary["files"]


def test_a_file_without_a_usable_row_says_why(tmp_path: Path) -> None:
    pytest.importorskip("datasketch")
    with pytest.raises(InvalidInput, match="of 2 lines malformed 1, no JSON 1"):
        check(None, write(tmp_path / "bad.jsonl", {"prompt": "a"}, "nonsense\n"))
    with pytest.raises(InvalidInput, match="it is empty"):
        check(None, write(tmp_path / "empty.jsonl"))
    with pytest.raises(InvalidInput, match="There is no file"):
        check(None, Source(tmp_path / "none.jsonl", "none.jsonl"))


def test_the_tokenizer_is_the_base_model_s(tmp_path: Path) -> None:
    cached = tmp_path / "models--org--name/snapshots/abc"
    for folder in (cached, tmp_path / "model"):
        folder.mkdir(parents=True)
        (folder / "tokenizer.json").write_text("{}")
    assert tokenizer_of(str(tmp_path / "model"), tmp_path) == tmp_path / "model/tokenizer.json"
    assert tokenizer_of("org/name", tmp_path) == cached / "tokenizer.json"
    assert tokenizer_of("org/other", tmp_path) is None


# ---- flags and configuration


def test_flags_win_over_the_configuration(tmp_path: Path) -> None:
    config = tmp_path / "bundle.yaml"
    config.write_text("dataset-id: org/data\nrun_name: from the file\nbatch-size: 2\nlearning_rate: 0.001\n")
    flags: dict[str, object] = {"run_name": "from the flag", "batch_size": None, "dataset_path": Path("chats.jsonl")}
    plan = merged(read_config(config), flags)

    assert (plan.run_name, plan.batch_size, plan.learning_rate) == ("from the flag", 2, 0.001)
    assert (plan.dataset_path, plan.dataset_id) == (Path("chats.jsonl"), None), "one replaces the other"
    config.write_text('{"dataset_path": "a.jsonl"}')
    assert merged(read_config(config), {}).dataset_path == Path("a.jsonl")


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ("dataset_id: org/data\nepoch: 3\n", "epoch is no field of a bundle"),
        ("dataset_id: org/data\nbatch_size: many\n", "--batch-size many is not usable"),
        ("dataset_id: ../../etc\n", "--dataset-id ../../etc is not usable"),
        ("dataset_id: a/b\ndataset_path: c\n", "name one of --dataset-path and --dataset-id"),
        ("{}", "name one of --dataset-path and --dataset-id"),
        ("- a\n", "has to hold fields"),
        ("a: [\n", "is neither YAML nor JSON, line"),
    ],
)
def test_a_configuration_that_means_nothing_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, content: str, line: str
) -> None:
    monkeypatch.setattr("app.commands.terminal.configure_logs", lambda *_, **__: None)  # it holds for all tests
    config = tmp_path / "bundle.yaml"
    config.write_text(content)
    assert main(["--config", str(config), "--dry-run"]) == 2
    said = capsys.readouterr().err
    assert line in said
    assert said.count("\n") == 1


def test_every_field_of_a_plan_is_a_flag_and_every_knob_a_training_s_option() -> None:
    flags = {action.dest for action in make_parser()._actions}
    assert set(BundlePlan.model_fields) <= flags
    assert options_of(BundlePlan(dataset_id="a/b")) == TrainingOptions(export_merged=False)
    knobs = dict.fromkeys(KNOBS, 32)
    plan = BundlePlan.model_validate({"dataset_id": "a/b", **knobs})
    assert {name: getattr(options_of(plan), name) for name in KNOBS} == knobs


# ---- the registry


def adapter(run_id: str, **fields: Any) -> Adapter:
    values = {"name": "n", "path": f"{run_id}/adapter", "checkpoint": None, "sha256": "0", "base_model": "b"}
    return Adapter.model_validate({**values, "run_id": run_id, "created_at": NOW, **fields})


def test_the_registry_follows_routes_and_hands() -> None:
    held = Registry().with_adapter(adapter("a")).with_adapter(adapter("b")).with_adapter(adapter("theirs", share=1.0))
    held = held.with_route({"a", "b"}, Route(("a",), "b", 0.25)).following(2, "a")
    assert {one.run_id: one.share for one in held.adapters} == {"a": 0.75, "b": 0.25, "theirs": 1.0}
    assert held.current == "a"
    assert held.pointing_at("b").following(2, "a").current == "b", "the same change does not take it back"
    assert held.pointing_at("b").following(3, None).current is None
    again = held.with_adapter(adapter("a", name="new"))
    assert [(one.name, one.share) for one in again.adapters if one.run_id == "a"] == [("new", 0.75)]
    with pytest.raises(InvalidInput, match="c is not in the registry, which holds: a, b, theirs"):
        held.pointing_at("c")


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"schema_version": 2}, "schema_version"),
        ({"current": "nobody"}, "current names nobody"),
        ({"more": 1}, "more"),
        ({"adapters": [adapter("a").model_dump(mode="json")] * 2}, "two adapters have one run_id"),
    ],
)
def test_another_document_is_refused_in_one_line(change: dict[str, Any], line: str) -> None:
    document = {**Registry().model_dump(mode="json"), **change}
    with pytest.raises(InvalidInput, match=line) as refused:
        parse_registry(json.dumps(document).encode(), "adapters.json")
    assert "\n" not in str(refused.value)


async def test_the_file_is_there_once_it_says_something_and_is_replaced_as_a_whole(tmp_path: Path) -> None:
    registry = AdapterRegistry(tmp_path / "new" / "adapters.json")
    assert registry.read() == Registry()
    await registry.change(lambda held: held, NOW)
    assert not registry.path.exists()
    await registry.change(lambda held: held.with_adapter(adapter("a")), NOW)
    first = registry.path.stat().st_ino
    with registry.path.open() as old:
        await registry.change(lambda held: held.pointing_at("a"), NOW)
        assert json.loads(old.read())["current"] is None, "who reads, reads the old one to its end"
    assert registry.path.stat().st_ino != first
    assert registry.read().current == "a"
    assert registry.read().updated_at == NOW
