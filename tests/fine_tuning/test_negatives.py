"""Mined negatives are near the anchor, and are nobody's positive of the same anchor."""

import json
from pathlib import Path

import pytest

pytest.importorskip("sentence_transformers")

from fine_tuning.embedding.base import BUILTIN, find_base, load_model
from fine_tuning.embedding.negatives import with_mined_negatives
from fine_tuning.embedding.rows import pairs_of, prepare_rows

pytestmark = pytest.mark.fine_tuning

PETS = ["the cat sleeps on the sofa", "the kitten plays with wool", "our dog barks at night"]
MONEY = ["interest rates rose again", "the bank lowered its rates", "shares fell on Monday"]


def test_negatives_are_near_texts_of_other_anchors(tmp_path: Path) -> None:
    rows = [{"a": "what does the cat do on the sofa", "b": PETS[0], "negative": "own"}]
    rows += [{"a": "what does the cat do on the sofa", "b": PETS[1]}, {"a": "when does our dog bark", "b": PETS[2]}]
    rows += [{"a": f"is it true that {text}", "b": text} for text in MONEY]
    file = tmp_path / "pairs.jsonl"
    file.write_text("\n".join(json.dumps(row) for row in rows), "utf8")
    train = prepare_rows(tmp_path / "rows", file, None, 0, False).train

    model = load_model(find_base(BUILTIN), "cpu")
    extended, found = with_mined_negatives(train, model, 1, tmp_path / "mined.arrow", 8)

    pairs = list(pairs_of(extended))
    own, other, dog, *money = pairs
    assert found == len(rows)
    assert own.negatives == ("own", PETS[2])
    assert other.negatives == (PETS[2],), "not the other positive of the same anchor, though that is nearer"
    assert dog.negatives[0] in PETS[:2]
    assert all(pair.negatives[0] in MONEY and pair.negatives[0] != pair.positive for pair in money)
