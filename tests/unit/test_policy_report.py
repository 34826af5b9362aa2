"""`embed-service policy report` in a terminal: figures in rows, policies in columns, explained below."""

from rich.console import Console

from app.commands.policy_report import MOST_COLUMNS, _table
from app.domain.calibration import Calibration
from app.domain.telemetry import Policy, Shown, by_policy, summarise
from app.services.telemetry import Report


def shown_by(policies: int) -> str:
    """The table of so many policies, 100 columns wide."""
    shown = [
        Shown((0.75,), "ask", True, 0, policy=Policy(source=f"source{number}"), weighed_s=0.25, weighed_tokens=760)
        for number in range(policies)
    ]
    console = Console(width=100)
    with console.capture() as captured:
        console.print(_table(Report(summarise(shown), by_policy(shown), Calibration(version=3))))
    return captured.get()


def test_figures_are_rows_and_policies_columns_that_are_named_below() -> None:
    text = shown_by(2)
    assert "Calibration 3" in text
    assert "1: source0" in text
    assert "2: source1" in text
    (brier,) = [line for line in text.splitlines() if "Brier" in line]
    assert brier.count("0.062") == 3
    (cost,) = [line for line in text.splitlines() if "weighing, ms" in line]
    assert cost.count("250") == 3


def test_a_terminal_has_room_for_some_policies() -> None:
    text = shown_by(MOST_COLUMNS + 3)
    assert f"{MOST_COLUMNS}: source" in text
    assert f"{MOST_COLUMNS + 1}: source" not in text
