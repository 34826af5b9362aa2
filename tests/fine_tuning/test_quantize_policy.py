"""The gate: what a quantized model is refused for."""

from dataclasses import replace
from pathlib import Path

import pytest

from fine_tuning.embedding.drift import Drift, Measures, MrrChange
from fine_tuning.embedding.errors import FineTuningError
from fine_tuning.embedding.evaluate import Interval
from fine_tuning.embedding.policy import CHECKOUT_POLICY, Policy, load_policy, refusals
from fine_tuning.embedding.recipes import choose
from fine_tuning.embedding.texts import LEAST_TEXTS, read_texts, shipped_texts, split_texts

FLOAT = Measures("onnx", "float", True, 1.0, 400, 4.4, 300, 90.0)
INT8 = Measures("openvino", "int8-static", True, 1.0, 1000, 2.4, 320, 23.0)
GOOD = Drift(0.9976, 0.99, FLOAT, INT8, 50)


def test_static_int8_passes() -> None:
    assert refusals(Policy(), GOOD) == []


def test_four_bits_that_drift_without_gain_are_refused_for_both() -> None:
    found = refusals(Policy(), Drift(0.965, 0.93, FLOAT, replace(INT8, texts_per_s=290, size_mb=63.0), 50))

    assert [line.split(":")[0] for line in found] == [
        "mean cosine to the original 0.9650",
        "worst cosine to the original 0.9300",
        "speed over the original's 0.7250",
    ]


@pytest.mark.parametrize(("texts_per_s", "refused"), [(590, 1), (610, 0)])
def test_vectors_that_depend_on_neighbours_need_more_speed(texts_per_s: float, refused: int) -> None:
    dynamic = replace(INT8, is_batchable=False, texts_per_s=texts_per_s)

    found = refusals(Policy(), replace(GOOD, after=dynamic))
    assert len(found) == refused
    assert all("neighbours" in line for line in found)


def test_what_is_no_smaller_is_refused() -> None:
    assert "size over the original's 1.000" in refusals(Policy(), replace(GOOD, after=replace(INT8, size_mb=90)))[0]


@pytest.mark.parametrize(("low", "refused"), [(-0.0049, False), (-0.0051, True)])
def test_the_bad_end_of_the_interval_counts(low: float, refused: bool) -> None:
    change = MrrChange(0.5, 0.5, Interval(0.0, low, 0.001), 100)

    assert bool(refusals(Policy(), replace(GOOD, mrr=change))) is refused


def test_a_gate_of_null_is_not_asked_for(tmp_path: Path) -> None:
    file = tmp_path / "policy.yaml"
    file.write_text("least_mean_cosine: null\nleast_worst_cosine: 0.9\n", "utf8")

    assert refusals(load_policy(file), replace(GOOD, mean_cosine=0.5, worst_cosine=0.91)) == []


@pytest.mark.parametrize(
    ("text", "said"),
    [("least_cosine: 1", "least_cosine"), ("most_size: big", "most_size"), ("[", "YAML"), ("- 1", "not usable")],
)
def test_a_wrong_policy_is_named(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "policy.yaml"
    file.write_text(text, "utf8")

    with pytest.raises(FineTuningError, match=said):
        load_policy(file)


def test_the_checkouts_policy_says_the_defaults() -> None:
    assert CHECKOUT_POLICY.is_file()
    assert load_policy() == Policy()


def test_a_runtime_that_cannot_do_it_is_refused() -> None:
    with pytest.raises(FineTuningError, match="not for openvino"):
        choose("int8-dynamic", "openvino", "avx2")
    assert (choose("int8", None, None).runtime, choose("int8-dynamic", None, None).runtime) == ("openvino", "onnx")
    assert choose("bnb-int4", None, None).device == "cuda"


def test_drift_is_not_measured_on_what_ranges_were_found_by() -> None:
    calibration, probes = split_texts(shipped_texts(), 40)

    assert (len(calibration), len(probes)) == (40, 40)
    assert not set(calibration) & set(probes)
    assert max(map(len, probes)) > 400


def test_calibration_texts_are_lines_or_pairs(tmp_path: Path) -> None:
    lines, pairs = tmp_path / "texts.txt", tmp_path / "pairs.tsv"
    lines.write_text("".join(f"text {n % LEAST_TEXTS}\n\n" for n in range(20)), "utf8")
    pairs.write_text("".join(f"a{n}\tb{n}\n" for n in range(4)), "utf8")

    assert read_texts(lines) == [f"text {n}" for n in range(LEAST_TEXTS)]
    assert read_texts(pairs)[:3] == ["a0", "b0", "a1"]
    lines.write_text("one\n", "utf8")
    with pytest.raises(FineTuningError, match="at least 8"):
        read_texts(lines)
