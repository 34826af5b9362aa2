"""Datasets as files: what is in them, what is not, that they come out the same, survive a kill, and forget a user."""

import asyncio
import hashlib
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from app.domain import training
from app.domain.datasets import DATASETS, SOURCES, SPLITS, DatasetOptions, SplitKey
from app.domain.errors import InvalidInput
from app.services.training import ModelTrainer, TrainingDataCollector

GUIDE = {
    "timestamp": "2025-10-19T10:30:00Z",
    "user_id": "user123",
    "user_input": "build api",
    "context": {
        "persona_facets": {"concise": 0.7, "code_first": 0.8},
        "recent_goals": ["deploy services"],
        "preferences": ["Python", "FastAPI"],
    },
    "hypotheses": [{"id": "h1", "question": "Do you want to build a REST API?", "confidence": 0.85}],
    "selected_id": "h1",
    "label": "positive",
}
WORDS = "ant bee cat dog elk fox gnu hen ibis jay koi lark mole newt owl pig quail ram seal toad".split()
NAMES = [f"{name}{'' if split == 'train' else '.' + split}.jsonl" for name in DATASETS.values() for split in SPLITS]


def trainer_of(folder: Path, *, is_enabled: bool = False) -> ModelTrainer:
    return ModelTrainer(TrainingDataCollector(folder, is_enabled=is_enabled, max_bytes=20_000))


def prepare(folder: Path, **options: Any) -> dict[str, Any]:
    """Prepare a folder's datasets; the summary."""
    preparation = trainer_of(folder).prepare_training_dataset(folder / "datasets", **options)
    return json.loads(Path(asyncio.run(preparation)["summary"]).read_bytes())


def write(folder: Path, file: str, *samples: dict[str, Any]) -> None:
    folder.mkdir(exist_ok=True)
    with (folder / file).open("a") as out:
        out.writelines(f"{json.dumps(sample)}\n" for sample in samples)


def said(number: int, more: int = 0) -> str:
    """Ten words that hardly another number has."""
    return " ".join(f"{WORDS[number * step % 20]}{number * step + more}" for step in range(1, 11))


def choice(number: int, user: str = "ann", **given: Any) -> dict[str, Any]:
    return {
        "timestamp": f"2026-01-{1 + number // 1440 % 28:02}T{number // 60 % 24:02}:{number % 60:02}:00Z",
        "user_id": user,
        "user_input": said(number),
        "context": {"persona_facets": {"concise": 0.9}, "memories": [{"type": "GOAL", "content": f"I am {user}."}]},
        "hypotheses": [
            {"id": f"h{place}", "question": f"Do you want {said(number, 1000 * place)}?", "request": "", "evidence": []}
            for place in (1, 2)
        ],
        "selected_id": "h1",
        "hypothesis_set_id": f"set-{number}",
        "schema_version": 2,
        **given,
    }


def rows(folder: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "datasets" / name).read_bytes().splitlines()]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((folder / "datasets").glob("*.jsonl"))}


KEY = b"a key of thirty-two bytes to try"
"""With a key by chance a split would be empty now and then."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Samples of all kinds of forty users, and a key that puts some of them on each side of the split."""
    (tmp_path / "split.key").write_bytes(KEY)
    for number in range(240):
        user = f"user-{number % 40}@mail.example"
        head = {key: choice(number, user)[key] for key in ("timestamp", "user_id")}
        write(tmp_path, training.HYPOTHESES_FILE, choice(number, user, tenant_id="default"))
        if number % 3 == 0:
            pair = {"hypothesis_a": said(number, 7), "hypothesis_b": said(number, 8), "preferred": "hypothesis_a"}
            write(tmp_path, training.PREFERENCES_FILE, {**head, **pair})
            move = {"signal": {"feedback": said(number)}, "persona_facets": {"formal": 0.5}, "updates": {"formal": 0.1}}
            write(tmp_path, training.PERSONA_FILE, {**head, **move})
            found = [{"id": f"m{place}", "content": said(number, place)} for place in range(4)]
            ranking = {"query": said(number), "candidates": found, "used_ids": ["m2"]}
            write(tmp_path, training.RANKING_FILE, {**head, **ranking})
    return tmp_path


def test_the_guide_s_own_example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "samples", training.HYPOTHESES_FILE, GUIDE)
    trainer = trainer_of(tmp_path / "samples")
    paths = asyncio.run(trainer.prepare_training_dataset(output_dir="./data/training/datasets"))
    assert paths["hypotheses"] == "./data/training/datasets/hypotheses_chat.jsonl"
    assert set(paths) == {*DATASETS, "summary"}
    (row,) = [json.loads(line) for line in Path(paths["hypotheses"]).read_text().splitlines()]
    assert [message["role"] for message in (*row["prompt"], *row["completion"])] == ["system", "user", "assistant"]
    assert row["meta"]["timestamp"] == GUIDE["timestamp"]
    assert all(Path(path).exists() for path in paths.values())


def test_every_sample_is_accounted_for(folder: Path) -> None:
    write(folder, training.HYPOTHESES_FILE, {"user_id": "ann"}, choice(1, "ann", timestamp="?"), {})
    write(folder, training.HYPOTHESES_FILE, choice(998, consent=False))
    with (folder / training.HYPOTHESES_FILE).open("a") as out:
        out.write('{"torn\n[1]\n')
    write(
        folder, training.PREFERENCES_FILE, {**choice(1), "hypothesis_a": "aaa", "hypothesis_b": "b", "preferred": "tie"}
    )
    summary = prepare(folder)
    hypotheses = summary["inputs"][training.HYPOTHESES_FILE]
    assert (hypotheses["samples"], hypotheses["damaged_lines"]) == (244, 2)
    assert summary["datasets"]["hypotheses_chat"]["dropped"] == {"malformed": 3, "no_consent": 1}
    assert summary["datasets"]["preferences"]["dropped"] == {"malformed": 3, "no_consent": 1, "tie": 1}
    for name, counts in summary["datasets"].items():
        fed_by = [file for file, fed in SOURCES.items() if name in fed]
        assert counts["samples_in"] == sum(summary["inputs"][file]["samples"] for file in fed_by)
        assert counts["samples_in"] == counts["samples_out"] + sum(counts["dropped"].values())
    for name in NAMES:
        path = folder / "datasets" / name
        counts = summary["files"][name]
        assert counts["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
        assert counts["rows"] == len(rows(folder, name))
        assert counts["rows"] > 0
    for file, given in summary["inputs"].items():
        for name, checksum in given["sha256"].items():
            assert checksum == hashlib.sha256((folder / name).read_bytes()).hexdigest(), file


def test_the_same_again_is_the_same_bytes(folder: Path) -> None:
    first = prepare(folder)
    before = contents(folder)
    again = prepare(folder)
    assert contents(folder) == before
    assert {**again, "seconds": 0} == {**first, "seconds": 0}


def test_no_user_is_in_training_and_held_out_and_time_divides_the_rest(folder: Path) -> None:
    summary = prepare(folder, options=DatasetOptions(heldout_share=0.3, later_share=0.2))
    users: dict[str, set[str]] = {split: set() for split in SPLITS}
    for dataset in DATASETS.values():
        for split in SPLITS:
            found = rows(folder, f"{dataset}{'' if split == 'train' else '.' + split}.jsonl")
            users[split] |= {row["meta"]["user"] for row in found}
            if split != "heldout":
                assert all((row["meta"]["timestamp"] > summary["cut_at"]) == (split == "later") for row in found)
    assert users["heldout"]
    assert not users["heldout"] & (users["train"] | users["later"])
    assert summary["users"] == {"train": len(users["train"]), "heldout": len(users["heldout"])}
    later = sum(len(rows(folder, f"{name}.later.jsonl")) for name in ("hypotheses_chat", "facets_chat", "rerank"))
    train = sum(len(rows(folder, f"{name}.jsonl")) for name in ("hypotheses_chat", "facets_chat", "rerank"))
    assert 0.1 < later / (later + train) < 0.3


def test_nobody_is_held_out_where_it_would_be_everybody(tmp_path: Path) -> None:
    write(tmp_path, training.HYPOTHESES_FILE, choice(1))
    summary = prepare(tmp_path, options=DatasetOptions(heldout_share=0.9999))
    assert summary["users"] == {"train": 1, "heldout": 0}
    assert len(rows(tmp_path, "hypotheses_chat.jsonl")) == 1


def test_no_row_names_a_user_and_no_secret_is_left(folder: Path) -> None:
    write(folder, training.HYPOTHESES_FILE, choice(999, user_input="write to eve@mail.example please now"))
    summary = prepare(folder)
    # Users of this folder are e-mail addresses, and a memory of each says theirs.
    assert summary["datasets"]["hypotheses_chat"]["redacted"] == {"EMAIL": 241}
    for name, content in contents(folder).items():
        assert b"@mail.example" not in content, name
        assert b"default" not in content, name


def test_doubles_are_dropped_and_never_divided_between_splits(tmp_path: Path) -> None:
    (tmp_path / "split.key").write_bytes(KEY)
    options = DatasetOptions(heldout_share=0.5, later_share=0.0)
    write(tmp_path, training.HYPOTHESES_FILE, *(choice(number, f"user-{number}") for number in range(60)))
    before = prepare(tmp_path, options=options)
    key = SplitKey((tmp_path / "split.key").read_bytes())
    split = {
        number: "heldout" if key.is_heldout(key.user("default", f"user-{number}"), 0.5) else "train"
        for number in range(60)
    }
    expected: Counter[str] = Counter()
    for number in range(0, 60, 2):  # the same of another user, whose name is unknown to the sample
        copy = choice(number, f"user-{number + 1}", hypothesis_set_id="copy")
        copy["context"] = choice(number, f"user-{number}")["context"]
        kind = "duplicate"
        if number % 4:
            question = copy["hypotheses"][0]["question"]
            copy["hypotheses"][0]["question"] = f"{question.rsplit(' ', 1)[0]} instead?"
            kind = "near_duplicate"
        write(tmp_path, training.HYPOTHESES_FILE, copy)
        where = split[number]
        expected[kind if where == split[number + 1] else f"{kind}_of_{where}"] += 1
    summary = prepare(tmp_path, options=options)
    assert summary["datasets"]["hypotheses_chat"]["dropped"] == dict(sorted(expected.items()))
    assert {"duplicate_of_train", "duplicate_of_heldout"} <= set(expected)
    assert {name: each["rows"] for name, each in summary["files"].items()} == {
        name: each["rows"] for name, each in before["files"].items()
    }


def test_what_feedback_turned_down_is_joined_by_its_set_and_its_user(tmp_path: Path) -> None:
    for number, user in ((1, "ann"), (2, "bob"), (3, "cid")):
        write(tmp_path, training.HYPOTHESES_FILE, choice(number, user, selected_id=None, label="negative"))
    feedback = {"timestamp": "2026-02-01T00:00:00Z", "rejected_ids": ["h2"]}
    write(tmp_path, training.FEEDBACK_FILE, {**feedback, "user_id": "ann", "hypothesis_set_id": "set-1"})
    write(tmp_path, training.FEEDBACK_FILE, {**feedback, "user_id": "eve", "hypothesis_set_id": "set-2"})
    write(tmp_path, training.FEEDBACK_FILE, {**feedback, "user_id": "cid", "hypothesis_set_id": None})
    prepare(tmp_path, options=DatasetOptions(heldout_share=0))
    (row,) = rows(tmp_path, "preferences.jsonl")
    assert row["meta"]["set_id"] == "set-1"
    assert said(1, 1000).capitalize()[1:] in row["chosen"][0]["content"]
    assert said(1, 2000) in row["rejected"][0]["content"]


def test_of_one_tenant_only(tmp_path: Path) -> None:
    write(tmp_path, training.HYPOTHESES_FILE, choice(1), choice(2, tenant_id="acme"), choice(3, tenant_id="other"))
    summary = prepare(tmp_path, tenant_id="acme", options=DatasetOptions(heldout_share=0))
    assert [row["meta"]["set_id"] for row in rows(tmp_path, "hypotheses_chat.jsonl")] == ["set-2"]
    assert summary["datasets"]["hypotheses_chat"]["samples_in"] == 1


def test_of_each_user_the_newest(tmp_path: Path) -> None:
    samples = [choice(number, "ann" if number < 8 else "bob") for number in range(10)]
    write(tmp_path, training.HYPOTHESES_FILE, *samples)
    summary = prepare(tmp_path, options=DatasetOptions(heldout_share=0, later_share=0, max_per_user=3))
    kept = [row["meta"]["set_id"] for row in rows(tmp_path, "hypotheses_chat.jsonl")]
    assert kept == [f"set-{number}" for number in (5, 6, 7, 8, 9)]
    assert summary["datasets"]["hypotheses_chat"]["dropped"] == {"over_limit": 5}


def test_rows_that_are_too_long_are_dropped_and_lengths_are_real(tmp_path: Path) -> None:
    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.enable_truncation(5)
    tokenizer.enable_padding(length=5000)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    write(tmp_path, training.HYPOTHESES_FILE, choice(1), choice(2, user_input=said(2) + " more" * 150))
    options = {"heldout_share": 0, "later_share": 0}
    summary = prepare(tmp_path, options=DatasetOptions(**options), tokenizer_file=tmp_path / "tokenizer.json")
    short, long = rows(tmp_path, "hypotheses_chat.jsonl")
    words = [len(message["content"].split()) for message in (*short["prompt"], *short["completion"])]
    assert sum(words) <= short["meta"]["tokens"] <= sum(words) + 12 + 20  # three messages' marks, and ends of lines
    assert long["meta"]["tokens"] - short["meta"]["tokens"] == 150
    assert summary["tokenizer"].startswith("sha256:")
    limit = DatasetOptions(**options, max_tokens=short["meta"]["tokens"])
    summary = prepare(tmp_path, options=limit, tokenizer_file=tmp_path / "tokenizer.json")
    assert rows(tmp_path, "hypotheses_chat.jsonl") == [short]
    assert summary["datasets"]["hypotheses_chat"]["dropped"] == {"too_long": 1}
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(InvalidInput):
        prepare(tmp_path, tokenizer_file=tmp_path / "tokenizer.json")


def test_a_dry_run_says_all_and_writes_nothing(folder: Path, tmp_path: Path) -> None:
    real = prepare(folder)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    dry = asyncio.run(trainer_of(folder).prepare_training_dataset(folder / "datasets", is_dry_run=True))["summary"]
    assert {**dry, "seconds": 0} == {**real, "seconds": 0}
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


async def test_a_dry_run_before_the_first_makes_no_key(tmp_path: Path) -> None:
    write(tmp_path, training.HYPOTHESES_FILE, choice(1))
    await trainer_of(tmp_path).prepare_training_dataset(tmp_path / "datasets", is_dry_run=True)
    assert not (tmp_path / "split.key").exists()
    assert not (tmp_path / "datasets").exists()


async def test_progress_ends_at_its_total(folder: Path) -> None:
    seen: list[Any] = []
    await trainer_of(folder).prepare_training_dataset(folder / "datasets", on_progress=seen.append)
    assert [one.done for one in seen] == sorted(one.done for one in seen)
    assert seen[-1].done == seen[-1].total > 0
    assert {one.stage for one in seen} == {"reading", "writing"}


def test_the_key_is_made_once_and_is_private(folder: Path) -> None:
    key = folder / "split.key"
    key.unlink()
    prepare(folder)
    first = key.read_bytes()
    assert len(first) == 32
    assert key.stat().st_mode & 0o777 == 0o600
    prepare(folder)
    assert key.read_bytes() == first
    for path in (folder / "datasets").iterdir():
        assert first not in path.read_bytes()
        assert first.hex().encode() not in path.read_bytes()
    key.write_bytes(b"short")
    with pytest.raises(InvalidInput, match=r"split\.key"):
        prepare(folder)


USER = "user-7@mail.example"


def name_of(folder: Path, user: str) -> str:
    return SplitKey((folder / "split.key").read_bytes()).user("default", user)


def test_an_erased_user_leaves_no_row_and_the_summary_fits(folder: Path) -> None:
    prepare(folder)
    name = name_of(folder, USER)
    before = {file: rows(folder, file) for file in NAMES}
    removed = trainer_of(folder).erase_user("default", USER, folder / "datasets")
    summary = json.loads((folder / "datasets" / "dataset_summary.json").read_bytes())
    assert sum(removed.values()) >= 12  # six choices, each with a chat row and a pair
    for file in NAMES:
        kept = [row for row in before[file] if row["meta"]["user"] != name]
        assert rows(folder, file) == kept
        assert removed[file] == len(before[file]) - len(kept)
        counts = summary["files"][file]
        content = (folder / "datasets" / file).read_bytes()
        assert (counts["rows"], counts["bytes"]) == (len(kept), len(content))
        assert counts["sha256"] == hashlib.sha256(content).hexdigest()
    assert summary["erasures"] == 1
    again = trainer_of(folder).erase_user("default", USER, folder / "datasets")
    assert not any(again.values())
    assert not any(trainer_of(folder).erase_user("other", "user-8@mail.example", folder / "datasets").values())


def test_an_erasure_that_is_broken_off_can_be_called_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare(folder)

    def break_off(*_: object) -> None:
        raise OSError("the disk is gone")

    with monkeypatch.context() as patched:
        patched.setattr("app.services.training.trainer.write_durably", break_off)
        with pytest.raises(OSError, match="the disk is gone"):
            trainer_of(folder).erase_user("default", USER, folder / "datasets")
    trainer_of(folder).erase_user("default", USER, folder / "datasets")
    summary = json.loads((folder / "datasets" / "dataset_summary.json").read_bytes())
    for name, content in contents(folder).items():
        assert name_of(folder, USER).encode() not in content
        assert summary["files"][name]["sha256"] == hashlib.sha256(content).hexdigest()
        assert summary["files"][name]["rows"] == len(rows(folder, name))


def test_an_erasure_says_so_when_it_cannot_know_the_rows(folder: Path) -> None:
    prepare(folder)
    (folder / "split.key").write_bytes(b"another key of thirty-two bytes!")
    with pytest.raises(InvalidInput):
        trainer_of(folder).erase_user("default", USER, folder / "datasets")
    (folder / "split.key").unlink()
    with pytest.raises(InvalidInput):
        trainer_of(folder).erase_user("default", USER, folder / "datasets")
    assert trainer_of(folder).erase_user("default", USER, folder / "nowhere") == {}


@pytest.mark.parametrize("stage", ["reading", "writing"])
async def test_who_is_erased_during_a_preparation_is_not_in_what_it_makes(folder: Path, stage: str) -> None:
    trainer, is_erased = trainer_of(folder), False

    def erase(progress: Any) -> None:
        nonlocal is_erased
        if progress.stage == stage and not is_erased:
            is_erased = True
            assert trainer.collector.erase_user("default", USER)[training.HYPOTHESES_FILE] == 6
            trainer.erase_user("default", USER, folder / "datasets")

    (folder / "split.key").write_bytes(b"k" * 32)
    await trainer.prepare_training_dataset(folder / "datasets", on_progress=erase)
    assert is_erased
    summary = json.loads((folder / "datasets" / "dataset_summary.json").read_bytes())
    assert summary["files"]["hypotheses_chat.jsonl"]["rows"] == len(rows(folder, "hypotheses_chat.jsonl")) > 0
    for name, content in contents(folder).items():
        assert name_of(folder, USER).encode() not in content, name


KILLED = """
import asyncio, os, signal, sys
from pathlib import Path
from app.services.training import ModelTrainer, TrainingDataCollector

folder = Path(sys.argv[1])
trainer = ModelTrainer(TrainingDataCollector(folder, is_enabled=False, max_bytes=1))

def kill(progress):
    if progress.stage == "writing":
        os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(trainer.prepare_training_dataset(folder / "datasets", on_progress=kill))
"""


def test_a_kill_leaves_the_old_files_whole_and_nothing_of_an_erased_user(folder: Path) -> None:
    prepare(folder)
    before = contents(folder)
    write(folder, training.HYPOTHESES_FILE, choice(500, "new"))
    ended = subprocess.run([sys.executable, "-c", KILLED, str(folder)], check=False, capture_output=True)
    assert ended.returncode == -signal.SIGKILL, ended.stderr.decode()
    assert contents(folder) == before
    assert (folder / "datasets" / ".preparing").is_dir()
    trainer_of(folder).erase_user("default", USER, folder / "datasets")
    assert not (folder / "datasets" / ".preparing").exists()
    summary = prepare(folder)
    assert summary["inputs"][training.HYPOTHESES_FILE]["samples"] == 241


@pytest.mark.parametrize("next_is", ["erasure", "preparation"])
def test_a_change_of_files_that_is_broken_off_is_finished_by_the_next_call(
    folder: Path, monkeypatch: pytest.MonkeyPatch, next_is: str
) -> None:
    prepare(folder, options=DatasetOptions(heldout_share=0.5))
    old = contents(folder)
    prepare(folder)
    new = contents(folder)
    prepare(folder, options=DatasetOptions(heldout_share=0.5))
    assert contents(folder) == old != new
    replace, moved = Path.replace, 0

    def break_off(self: Path, target: Path) -> Path:
        nonlocal moved
        moved += ".preparing" in self.parts and self.suffix == ".jsonl"
        if moved > 3:
            raise OSError("the disk is gone")
        return replace(self, target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", break_off)
        with pytest.raises(OSError, match="the disk is gone"):
            prepare(folder)
    assert contents(folder) not in (old, new)
    if next_is == "erasure":
        trainer_of(folder).erase_user("default", "nobody", folder / "datasets")
    else:
        with pytest.raises(ZeroDivisionError):  # that fails itself, after it has finished what was broken off
            prepare(folder, on_progress=lambda _: 1 / 0)
    assert contents(folder) == new
    assert not (folder / "datasets" / ".preparing").exists()


async def test_cancelling_ends_the_work_and_clears_up(folder: Path) -> None:
    started = asyncio.Event()
    loop = asyncio.get_running_loop()
    calls = 0

    def wait_for_cancelling(progress: Any) -> None:
        nonlocal calls
        calls += 1
        loop.call_soon_threadsafe(started.set)
        asyncio.run_coroutine_threadsafe(asyncio.sleep(0.2), loop).result()

    trainer = trainer_of(folder)
    task = asyncio.create_task(trainer.prepare_training_dataset(folder / "datasets", on_progress=wait_for_cancelling))
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    for _ in range(100):
        if not (folder / "datasets" / ".preparing").exists():
            break
        await asyncio.sleep(0.05)
    assert not (folder / "datasets" / ".preparing").exists()
    assert not contents(folder)
    assert calls == 1


def test_samples_logged_meanwhile_wait_for_the_next_time(tmp_path: Path) -> None:
    """The collector writes, and rotates its files, while they are read."""
    trainer = trainer_of(tmp_path, is_enabled=True)
    collector = trainer.collector
    log = {"user_id": "ann", "selected_id": "h1"}

    def shown(number: int) -> dict[str, Any]:
        return {"user_input": said(number), "hypotheses": [{"id": "h1", "question": said(number), "confidence": 0.5}]}

    for number in range(40):
        collector.log_hypotheses(**log, **shown(number))
    has_logged = False

    def log_more(progress: Any) -> None:
        nonlocal has_logged
        if not has_logged:
            has_logged = True
            for number in range(100, 180):
                collector.log_hypotheses(**log, **shown(number))

    options = DatasetOptions(heldout_share=0)
    asyncio.run(trainer.prepare_training_dataset(tmp_path / "datasets", on_progress=log_more, options=options))
    summary = json.loads((tmp_path / "datasets" / "dataset_summary.json").read_bytes())
    assert summary["datasets"]["hypotheses_chat"]["samples_in"] == 40
    summary = prepare(tmp_path, options=options)
    assert summary["datasets"]["hypotheses_chat"]["samples_in"] == 120
    assert len(summary["inputs"][training.HYPOTHESES_FILE]["sha256"]) > 1  # rotated ones are named


@pytest.mark.slow
def test_two_preparations_at_once_take_turns(folder: Path) -> None:
    script = KILLED.replace("os.kill(os.getpid(), signal.SIGKILL)", "pass")
    both = [subprocess.Popen([sys.executable, "-c", script, str(folder)], env=os.environ) for _ in range(2)]
    assert [each.wait(60) for each in both] == [0, 0]
    made = contents(folder)
    prepare(folder)
    assert contents(folder) == made
