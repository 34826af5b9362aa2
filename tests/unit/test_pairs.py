"""Pairs out of the ranking log: what becomes one, what does not, and what erasures find of them."""

import json
from pathlib import Path
from typing import Any

import pytest

from app.domain.datasets import SplitKey
from app.domain.errors import InvalidInput, NotReady
from app.domain.pairs import Pair, Paired, pairs_of
from app.domain.training import RANKING_FILE
from app.services.training import ModelTrainer, TrainingDataCollector
from app.services.training.pair_files import erase_pairs, pairs_folder
from app.services.training.pairs import PairExport

SECRET = "sk-" + "a1B2c3D4e5F6g7H8i9J0k1L2m3N4"


def candidate(name: str, content: str, **more: Any) -> dict[str, Any]:
    return {"id": name, "type": "PROFILE", "content": content, "similarity": 0.6, **more}


def ranking(query: str = "deploy my app", used: tuple[str, ...] = ("a",), **more: Any) -> dict[str, Any]:
    """Three candidates, best first: a used one unless said otherwise, and two that were not."""
    candidates = [candidate(name, f"I use {word}") for name, word in zip("bac", ("AWS", "Docker", "Rust"), strict=True)]
    return {"query": query, "candidates": candidates, "used_ids": list(used), **more}


def test_a_used_memory_is_paired_with_the_best_ranked_ones_that_were_not() -> None:
    assert pairs_of(ranking()).pairs == [Pair("deploy my app", "I use Docker", ("I use AWS", "I use Rust"))]
    assert pairs_of(ranking(), 1).pairs == [Pair("deploy my app", "I use Docker", ("I use AWS",))]
    assert [pair.negatives for pair in pairs_of(ranking(used=("a", "b", "c"))).pairs] == [()] * 3


def test_what_says_the_same_as_a_used_memory_is_no_negative() -> None:
    sample = ranking()
    sample["candidates"].append(candidate("d", "I use\n Docker"))

    assert pairs_of(sample).pairs[0].negatives == ("I use AWS", "I use Rust")


def test_a_standing_wish_that_has_nothing_to_do_with_the_query_is_no_answer_to_it() -> None:
    wish = candidate("a", "Keep it short", type="STYLE", similarity=0.05)
    sample = {**ranking(), "candidates": [wish, candidate("b", "I use AWS")]}

    assert (pairs_of(sample).reason, pairs_of(sample).standing) == ("nothing_used", 1)
    near = {**sample, "candidates": [{**wish, "similarity": 0.5}, sample["candidates"][1]]}
    assert [pair.memory for pair in pairs_of(near).pairs] == ["Keep it short"]


@pytest.mark.parametrize(
    ("reason", "change"),
    [
        ("malformed", {"candidates": "none"}),
        ("no_query", {"query": " \n"}),
        ("no_success", {"success": False}),
        ("nothing_used", {"used_ids": []}),
        ("no_text", {"candidates": [{"id": "a"}]}),
    ],
)
def test_a_sample_without_a_pair_says_why(reason: str, change: dict[str, Any]) -> None:
    assert pairs_of(ranking() | change) == Paired(reason=reason)


class House:
    """A log of rankings, and what exports and erases them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.collector = TrainingDataCollector(folder, is_enabled=True, max_bytes=2_000)
        self.trainer = ModelTrainer(self.collector)
        self.service = PairExport(self.trainer)

    def log(self, query: str, user: str = "ann", tenant: str = "default", **more: Any) -> None:
        sample = ranking(query, **more)
        assert self.collector.log_ranking(
            user_id=user,
            tenant_id=tenant,
            query=query,
            candidates=sample["candidates"],
            used_ids=sample["used_ids"],
        )

    def name_of(self, user: str, tenant: str = "default") -> str:
        return self.trainer.make_split_key().user(tenant, user)

    def erase(self, user: str, tenant: str = "default") -> tuple[dict[str, int], bool]:
        """As an erasure does: the samples, then the pairs."""
        self.collector.erase_user(tenant, user)
        return erase_pairs(pairs_folder(self.folder, tenant), self.trainer.split_key(), tenant, user)


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path / "training")


def rows(path: str | Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def test_an_export_holds_each_pair_once_without_names_and_secrets(house: House) -> None:
    """Over rotated files, with a damaged line, another tenant's samples, and a secret that got into the log."""
    for number in range(20):
        house.log(f"deploy app {number % 10}", user="ann" if number % 2 else "bob")
    house.log("theirs", tenant="other")
    house.log("nothing", used=())
    with (house.folder / RANKING_FILE).open("a") as out:
        out.write("{broken\n")
        said = ranking(f"deploy with {SECRET}", user_id="bob", tenant_id="default", consent=True)
        out.write(f"{json.dumps(said)}\n{json.dumps({**said, 'query': 'no', 'consent': False})}\n")
    assert len(list(house.folder.glob("ranking_data*.jsonl"))) > 2

    made = house.service.export("default", negatives=1)

    written = rows(made.file)
    assert written[0] == {
        "text_a": "deploy app 0",
        "text_b": "I use Docker",
        "negative": ["I use AWS"],
        "user": house.name_of("bob"),
    }
    assert (len(written), made.rows, made.users, made.samples, made.damaged_lines) == (11, 11, 2, 23, 1)
    assert made.dropped == {"no_consent": 1, "nothing_used": 1}
    assert made.rows_dropped == {"duplicate": 10}
    assert sum(made.redacted.values()) == 1
    text = Path(made.file).read_text()
    assert not any(word in text for word in (SECRET, "ann", "bob", "theirs"))
    assert {path.name for path in Path(made.file).parent.iterdir()} <= {
        "pairs.jsonl",
        ".key",
        ".lock",
        ".exporting.lock",
    }


def test_a_tsv_has_the_guides_columns(house: House, tmp_path: Path) -> None:
    house.log("deploy\tmy\napp")

    made = house.service.export("default", tmp_path / "pairs.tsv", "tsv")

    assert Path(made.file).read_text() == "deploy my app\tI use Docker\tI use AWS\n"
    assert not made.is_reached
    bare = house.service.export("default", tmp_path / "bare.tsv", "tsv", negatives=0)
    assert Path(bare.file).read_text() == "deploy my app\tI use Docker\n"


def test_an_erased_user_is_in_no_export(house: House) -> None:
    """JSON lines lose their rows, a TSV goes; a second export is without them; the other tenant's stay."""
    for user in ("ann", "bob"):
        house.log(f"deploy of {user}", user)
    house.log("deploy of ann elsewhere", "ann", "other")
    first = house.service.export("default")
    tsv = house.service.export("default", form="tsv")
    theirs = house.service.export("other")

    assert house.erase("ann") == ({"pairs.jsonl": 1, "pairs.tsv": 2}, False)

    assert [row["text_a"] for row in rows(first.file)] == ["deploy of bob"]
    assert not Path(tsv.file).exists()
    assert len(rows(theirs.file)) == 1
    assert house.erase("ann") == ({}, False)
    assert house.service.export("default").users == 1


def test_who_is_erased_while_an_export_runs_is_not_in_it(house: House) -> None:
    """The log was opened before the erasure: its rows are still read, and taken out at the end."""
    for number in range(3):
        house.log(f"deploy {number}", "ann")
        house.log(f"ship {number}", "bob")
    erased: list[Any] = []

    def erase_once(*_: int) -> None:
        if not erased:
            erased.append(house.erase("ann"))

    made = house.service.export("default", on_progress=erase_once)

    assert erased
    assert (made.rows, made.users, made.rows_dropped) == (3, 1, {"erased": 3})
    assert {row["user"] for row in rows(made.file)} == {house.name_of("bob")}


def test_a_broken_off_export_leaves_the_old_file_and_no_text(house: House) -> None:
    house.log("deploy it")
    first = house.service.export("default")
    before = Path(first.file).read_bytes()
    house.log("ship it")

    def interrupt(*_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        house.service.export("default", on_progress=interrupt)

    assert Path(first.file).read_bytes() == before
    assert not any("ship it" in path.read_text() for path in Path(first.file).parent.iterdir())


def test_pairs_whose_key_is_lost_go_whole(house: House) -> None:
    house.log("deploy it")
    made = house.service.export("default")
    (house.folder / "split.key").write_bytes(SplitKey(b"x" * 32).secret)

    assert house.erase("somebody") == ({"pairs.jsonl": 1}, True)
    assert not Path(made.file).exists()


def test_a_file_that_no_erasure_would_find_is_refused(house: House) -> None:
    house.log("deploy it")
    for name in ("pairs.jsonl", "pairs/pairs.txt", "pairs/.hidden.jsonl", "pairs/other/pairs.jsonl"):
        with pytest.raises(InvalidInput, match="erasures find pairs as"):
            house.service.export("default", house.folder / name)
    with pytest.raises(InvalidInput, match="0 to 50"):
        house.service.export("default", negatives=51)


def test_without_pairs_it_says_why(house: House) -> None:
    with pytest.raises(NotReady, match="ENABLE_TRAINING_DATA_COLLECTION=true"):
        house.service.export("default")
    house.log("deploy", used=())
    with pytest.raises(NotReady, match="nothing_used 1"):
        house.service.export("default")
