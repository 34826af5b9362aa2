"""The reliability plot: of anything that telemetry gives, PNG or SVG by the name of the file."""

from pathlib import Path

import pytest

from app.domain.telemetry import Policy, Shown, by_policy, summarise
from app.services.telemetry_plot import draw_reliability, named

MODEL = Policy(1, 0.1, 0.86, "vllm", "m", "2026-11-21", None, "label", "2026-11-30")
SHOWN = [
    Shown((0.1 + share / 12, 0.05), "ask", True, 0 if share % 3 else None, policy=policy)
    for share in range(9)
    for policy in (MODEL, Policy(source="local"))
]


@pytest.mark.parametrize(("name", "magic"), [("r.png", b"\x89PNG"), ("r.svg", b"<?xml"), ("r", b"\x89PNG")])
@pytest.mark.parametrize("shown", [SHOWN, SHOWN[::2], []], ids=["two policies", "one", "nothing"])
def test_it_is_drawn(tmp_path: Path, name: str, magic: bytes, shown: list[Shown]) -> None:
    draw_reliability(tmp_path / name, summarise(shown), by_policy(shown))
    assert (tmp_path / name).read_bytes().startswith(magic)


def test_an_svg_tells_the_error_and_that_of_chance(tmp_path: Path) -> None:
    summary = summarise(SHOWN)
    draw_reliability(tmp_path / "r.svg", summary, by_policy(SHOWN))
    text = (tmp_path / "r.svg").read_text("utf8")
    assert f"{summary.calibration_error:.3f}" in text
    assert f"{summary.chance_error:.3f}" in text


def test_a_policy_is_named_by_what_tells_it_apart() -> None:
    one, other = by_policy(SHOWN)
    assert {named(one), named(other)} == {"local", "vllm · m · label · 2026-11-21 · rule 1 · cost 0.1"}
