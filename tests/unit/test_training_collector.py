"""The collector writes the guide's samples, hides secrets, rotates, survives damage and erases a user."""

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest
import structlog

from app.domain.errors import InvalidInput
from app.domain.training import FILES, Maker
from app.services.training import TrainingDataCollector

NOW = datetime(2025, 10, 19, 10, 30, 0, 123456, tzinfo=UTC)
SECRET = "sk-" + "a1B2c3D4e5F6g7H8i9J0k1L2m3N4"


class FixedClock:
    def now(self) -> datetime:
        return NOW


def collector_in(directory: Path, **given: Any) -> TrainingDataCollector:
    return TrainingDataCollector(directory, **{"is_enabled": True, "clock": FixedClock(), "max_bytes": 10**6} | given)


@pytest.fixture
def collector(tmp_path: Path) -> TrainingDataCollector:
    return collector_in(tmp_path)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def compare(collector: TrainingDataCollector, number: int, user_id: str = "user123", **more: Any) -> bool:
    return collector.log_preference_comparison(
        user_id=user_id, hypothesis_a=f"Do you want {number:03}?", hypothesis_b="Or Y?", preferred="tie", **more
    )


def log_one_of_each(collector: TrainingDataCollector, user_id: str, tenant_id: str, text: str) -> list[bool]:
    who = {"user_id": user_id, "tenant_id": tenant_id}
    return [
        collector.log_hypotheses(
            **who,
            user_input=text,
            hypotheses=[{"id": "h1", "question": text, "confidence": 0.5}],
            selected_id=None,
            persona_facets={"concise": 0.7},
            recent_goals=[text],
            preferences=(text,),
        ),
        collector.log_persona_update(
            **who,
            signal={"selected_hypothesis_id": "h2", "feedback": text, "deep": {"er": [text]}},
            facets_before={"concise": 0.7},
            updates={"concise": -0.08},
            facets_after={"concise": 0.62},
            source="local",
        ),
        collector.log_ranking(**who, query=text, candidates=[{"id": "m1", "content": text, "score": 0.9}]),
        collector.log_feedback(**who, is_success=True, rating=0.5, comment=text, rejected_ids=["h2"]),
        collector.log_preference_comparison(
            **who, hypothesis_a=text, hypothesis_b="Y?", preferred="hypothesis_a", reward=1.0
        ),
    ]


def test_a_hypotheses_sample_is_the_guides(collector: TrainingDataCollector, tmp_path: Path) -> None:
    assert collector.log_hypotheses(
        user_id="user123",
        user_input="build api",
        persona_facets={"concise": 0.7, "code_first": 0.8},
        recent_goals=["deploy services"],
        preferences=["Python", "FastAPI"],
        hypotheses=[SimpleNamespace(id="h1", question="Do you want to build a REST API?", confidence=0.85)],
        selected_id="h1",
        hypothesis_set_id=UUID(int=7),
        maker=Maker("local", "v1"),
        memories=[{"type": "GOAL", "content": "deploy services", "date": "2025-10-01"}],
    )
    guide = {
        "timestamp": "2025-10-19T10:30:00Z",
        "user_id": "user123",
        "user_input": "build api",
        "context": {
            "persona_facets": {"concise": 0.7, "code_first": 0.8},
            "recent_goals": ["deploy services"],
            "preferences": ["Python", "FastAPI"],
            "memories": [{"type": "GOAL", "content": "deploy services", "date": "2025-10-01"}],
        },
        "hypotheses": [
            {
                "id": "h1",
                "question": "Do you want to build a REST API?",
                "request": None,
                "confidence": 0.85,
                "evidence": [],
            }
        ],
        "selected_id": "h1",
        "label": "positive",
    }
    ours = {
        "hypothesis_set_id": "00000000-0000-0000-0000-000000000007",
        "prompt_version": "v1",
        "model": "local",
        "adapter": None,
        "tenant_id": "default",
        "schema_version": 2,
        "consent": True,
    }
    [sample] = lines(tmp_path / "hypotheses_data.jsonl")
    assert list(sample.items()) == [*guide.items(), *ours.items()]


def test_no_choice_is_a_negative_sample(collector: TrainingDataCollector) -> None:
    collector.log_hypotheses(user_id="u", user_input="x", hypotheses=[], selected_id=None)
    assert [one["label"] for one in collector.get_interaction_data()] == ["negative"]


def test_the_other_samples(collector: TrainingDataCollector, tmp_path: Path) -> None:
    assert log_one_of_each(collector, "u", "acme", "too brief") == [True] * 5
    head = {"timestamp": "2025-10-19T10:30:00Z", "user_id": "u"}
    made = {"hypothesis_set_id": None, "prompt_version": None, "model": None, "adapter": None}
    tail = {**made, "tenant_id": "acme", "schema_version": 2, "consent": True}
    assert lines(tmp_path / "persona_updates.jsonl") == [
        head
        | {
            "signal": {"selected_hypothesis_id": "h2", "feedback": "too brief", "deep": {"er": ["too brief"]}},
            "persona_facets": {"concise": 0.7},
            "updates": {"concise": -0.08},
            "facets_after": {"concise": 0.62},
            "source": "local",
        }
        | tail
    ]
    assert lines(tmp_path / "ranking_data.jsonl") == [
        head
        | {
            "query": "too brief",
            "candidates": [{"rank": 1, "id": "m1", "content": "too brief", "score": 0.9}],
            "used_ids": [],
            "success": None,
        }
        | tail
    ]
    assert lines(tmp_path / "user_feedback.jsonl") == [
        head
        | {
            "execution_id": None,
            "hypothesis_set_id": None,
            "success": True,
            "rating": 0.5,
            "comment": "too brief",
            "rejected_ids": ["h2"],
        }
        | tail
    ]
    assert list(collector.get_preference_data()) == [
        head | {"hypothesis_a": "too brief", "hypothesis_b": "Y?", "preferred": "hypothesis_a", "reward": 1.0} | tail
    ]


def test_what_means_nothing_is_refused_and_not_written(collector: TrainingDataCollector, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput):
        collector.log_preference_comparison(user_id="u", hypothesis_a="a", hypothesis_b="b", preferred="a", reward=1)
    with pytest.raises(InvalidInput):
        collector.log_hypotheses(user_id="u", user_input="x", hypotheses=[], selected_id="h9")
    assert list(tmp_path.iterdir()) == []


def test_no_file_ever_holds_a_secret(collector: TrainingDataCollector, tmp_path: Path) -> None:
    log_one_of_each(collector, "u", "default", f"use {SECRET} or mail jane@example.com")
    for file in FILES:
        content = (tmp_path / file).read_text()
        assert SECRET not in content
        assert "jane" not in content
        assert "use [API_KEY] or mail [EMAIL]" in content


def test_text_that_is_no_utf8_is_written_all_the_same(collector: TrainingDataCollector) -> None:
    assert collector.log_feedback(user_id="u", comment="half \ud83d of it\n\u2028")
    assert [one["comment"] for one in collector.read("user_feedback.jsonl")] == ["half ? of it\n\u2028"]


def test_the_log_names_file_and_bytes_and_no_text(collector: TrainingDataCollector, tmp_path: Path) -> None:
    with structlog.testing.capture_logs() as events:
        collector.log_feedback(user_id="u", comment="my own words")
    size = (tmp_path / "user_feedback.jsonl").stat().st_size
    assert events == [
        {"event": "training_data_logged", "log_level": "info", "file": "user_feedback.jsonl", "bytes": size}
    ]


@pytest.mark.parametrize(("is_enabled", "has_consent"), [(False, True), (True, False)])
def test_off_or_without_consent_nothing_is_written(tmp_path: Path, is_enabled: bool, has_consent: bool) -> None:
    directory = tmp_path / "training"
    collector = collector_in(directory, is_enabled=is_enabled)
    assert compare(collector, 1, has_consent=has_consent) is False
    assert not directory.exists()
    assert collector.get_training_stats()["preferences_count"] == 0
    assert list(collector.get_preference_data()) == []
    assert sum(collector.erase_user("default", "user123").values()) == 0
    collector.close()
    assert not directory.exists()


def test_without_arguments_the_settings_decide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("TRAINING_DATA_DIR", "ENABLE_TRAINING_DATA_COLLECTION", "DATA_DIR"):
        monkeypatch.delenv(name, raising=False)
    assert TrainingDataCollector().directory == Path("data/training")
    assert TrainingDataCollector().is_enabled is False
    monkeypatch.setenv("TRAINING_DATA_DIR", str(tmp_path / "there"))
    monkeypatch.setenv("ENABLE_TRAINING_DATA_COLLECTION", "true")
    assert compare(TrainingDataCollector(), 1)
    assert (tmp_path / "there" / "preferences.jsonl").exists()


def test_stats_count_every_kind(collector: TrainingDataCollector) -> None:
    for _ in range(3):
        log_one_of_each(collector, "u", "default", "x")
    compare(collector, 1)
    assert collector.get_training_stats() == {
        "hypotheses_count": 3,
        "persona_updates_count": 3,
        "ranking_samples_count": 3,
        "feedback_count": 3,
        "preferences_count": 4,
    }


def test_full_files_are_rotated_and_read_in_order(tmp_path: Path) -> None:
    collector = collector_in(tmp_path, max_bytes=600)
    for number in range(30):
        compare(collector, number)
    files = sorted(path.name for path in tmp_path.glob("*.jsonl"))
    assert "preferences.10.jsonl" in files
    assert all((tmp_path / name).stat().st_size <= 600 for name in files)
    assert [one["hypothesis_a"] for one in collector.get_preference_data()] == [
        f"Do you want {number:03}?" for number in range(30)
    ]
    assert collector.get_training_stats()["preferences_count"] == 30


def test_a_line_longer_than_a_file_may_be_is_written_whole(tmp_path: Path) -> None:
    collector = collector_in(tmp_path, max_bytes=1)
    assert compare(collector, 1)
    assert compare(collector, 2)
    assert [path.name for path in sorted(tmp_path.glob("*.jsonl"))] == ["preferences.1.jsonl", "preferences.jsonl"]
    assert collector.get_training_stats()["preferences_count"] == 2


def test_damaged_lines_are_skipped_counted_and_logged_once(collector: TrainingDataCollector, tmp_path: Path) -> None:
    compare(collector, 1)
    with (tmp_path / "preferences.jsonl").open("ab") as file:
        file.write(b'{"user_id": "user1\n\n[1]\n\xff\xfe\n')
    compare(collector, 2)
    with structlog.testing.capture_logs() as events:
        assert len(list(collector.get_preference_data())) == 2
    assert collector.damaged_lines["preferences.jsonl"] == 3
    assert events == [
        {"event": "training_lines_damaged", "log_level": "warning", "file": "preferences.jsonl", "lines": 3}
    ]


@pytest.mark.parametrize("torn", [b'{"user_id": "us', b'{"a": "' + b"x" * 200_000])
def test_a_torn_line_is_cut_off_before_the_next(collector: TrainingDataCollector, tmp_path: Path, torn: bytes) -> None:
    compare(collector, 1)
    path = tmp_path / "preferences.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole + torn)
    compare(collector, 2)
    assert path.read_bytes().startswith(whole + b'{"timestamp"')
    assert len(lines(path)) == 2
    path.write_bytes(torn)
    compare(collector, 3)
    assert len(lines(path)) == 1


def test_a_last_line_without_its_newline_is_kept(collector: TrainingDataCollector, tmp_path: Path) -> None:
    compare(collector, 1)
    path = tmp_path / "preferences.jsonl"
    path.write_bytes(path.read_bytes().rstrip(b"\n"))
    compare(collector, 2)
    assert [one["hypothesis_a"] for one in lines(path)] == ["Do you want 001?", "Do you want 002?"]


def test_a_full_disk_leaves_no_part_of_a_line(
    collector: TrainingDataCollector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compare(collector, 1)
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:10]))
    with pytest.raises(OSError, match="10 of"):
        compare(collector, 2)
    monkeypatch.undo()
    compare(collector, 3)
    assert [one["hypothesis_a"] for one in lines(tmp_path / "preferences.jsonl")] == [
        "Do you want 001?",
        "Do you want 003?",
    ]


def test_a_user_is_erased_from_every_file(tmp_path: Path) -> None:
    collector = collector_in(tmp_path, max_bytes=700)
    for number in range(12):
        log_one_of_each(collector, f"user{number % 3}", "acme", f"said {number}")
    log_one_of_each(collector, "user1", "other", "another tenant")
    (tmp_path / "preferences.1.jsonl").open("ab").write(b'{"user_id": "user1", torn\n')
    (tmp_path / "preferences.jsonl.new").write_text('{"user_id": "user1"}')
    before = collector.get_training_stats()
    assert len(list(tmp_path.glob("preferences.*.jsonl"))) > 2

    assert collector.erase_user("acme", "user1") == dict.fromkeys(FILES, 4)

    assert collector.get_training_stats() == {count: number - 4 for count, number in before.items()}
    left = [one for file in FILES for one in collector.read(file)]
    assert all(one["user_id"] != "user1" or one["tenant_id"] == "other" for one in left)
    assert sum(one["user_id"] == "user1" for one in left) == len(FILES)
    assert collector.damaged_lines == dict.fromkeys(FILES, 0)
    assert not list(tmp_path.glob("*.new"))
    assert b"torn" not in b"".join(path.read_bytes() for path in tmp_path.glob("*.jsonl"))
    assert collector.erase_user("acme", "user1") == dict.fromkeys(FILES, 0)


def test_erasing_works_while_collection_is_off_and_leaves_empty_files_out(tmp_path: Path) -> None:
    writing = collector_in(tmp_path, max_bytes=300)
    for number in range(3):
        compare(writing, number)
    assert collector_in(tmp_path, is_enabled=False).erase_user("default", "user123")["preferences.jsonl"] == 3
    assert list(tmp_path.glob("*.jsonl")) == []
    assert compare(writing, 4)
    assert writing.get_training_stats()["preferences_count"] == 1


def test_a_reader_sees_the_moment_it_began(tmp_path: Path) -> None:
    collector = collector_in(tmp_path, max_bytes=500)
    for number in range(4):
        compare(collector, number)
    reading = collector.get_preference_data()
    first = next(reading)
    compare(collector, 4)
    collector.erase_user("default", "user123")
    assert len([first, *reading]) == 4
    assert list(collector.get_preference_data()) == []


def test_only_the_owner_may_read_the_files(tmp_path: Path) -> None:
    collector = collector_in(tmp_path / "training", max_bytes=300)
    compare(collector, 1)
    compare(collector, 2, user_id="b")
    compare(collector, 3)
    collector.erase_user("default", "b")
    collector.close()
    assert (tmp_path / "training").stat().st_mode & 0o077 == 0
    assert all(path.stat().st_mode & 0o077 == 0 for path in (tmp_path / "training").iterdir())
