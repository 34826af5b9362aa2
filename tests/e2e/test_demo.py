"""`embed-service demo` plays to its end at the usual widths, from any file in the layout, and leaves nothing behind."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.servers import open_folder

pytestmark = pytest.mark.slow

COMMAND = Path(sys.executable).with_name("embed-service")
ACTS = ("1  Remember", "2  Ask", "3  Execute", "4  Feedback", "5  Ask again", "6  Search", "7  Erase")


def play(folder: Path, *arguments: str, columns: int = 80) -> subprocess.CompletedProcess[str]:
    """The demo with `folder` as its working and temporary folder."""
    env = os.environ | {"TMPDIR": str(folder), "COLUMNS": str(columns), "PYTHONIOENCODING": "utf-8"}
    # Were these used, the demo would fail: it has to bring its own parts.
    env |= {"DATABASE_URL": "postgresql://nobody@127.0.0.1:1/none", "DATA_DIR": str(folder / "of-the-user")}
    return subprocess.run(
        [COMMAND, "demo", *arguments], cwd=folder, env=env, capture_output=True, text=True, timeout=120, check=False
    )


@pytest.mark.parametrize("columns", [80, 120])
def test_plays_the_whole_session_and_leaves_nothing(columns: int) -> None:
    with open_folder() as folder:
        started = time.monotonic()
        done = play(folder, columns=columns)
        took_s = time.monotonic() - started
        assert done.returncode == 0, done.stderr
        assert [act for act in ACTS if act in done.stdout] == list(ACTS)
        assert "Nothing of it is left" in done.stdout
        best = next(line for line in done.stdout.splitlines() if line.startswith("h1 "))
        assert "on AWS" in best, "where she deploys now, not where she did before"
        assert max(len(line) for line in done.stdout.splitlines()) <= columns
        assert "\x1b" not in done.stdout, "no colours where nobody sees them"
        assert list(folder.iterdir()) == []
        assert took_s < 60, "20 s on an idle machine"


def test_plays_the_first_conversation_of_a_file() -> None:
    with open_folder() as folder:
        said = ["I love hiking in the hills", "We plan to visit the coast in [bold]June[/bold]", "It rained all week"]
        turns = [{"speaker": "Ana", "text": text} for text in said] + [{"speaker": "Ben", "text": "Nice!"}]
        item = {
            "conversation": {
                "speaker_a": "Ana",
                "speaker_b": "Ben",
                "session_1_date_time": "1:56 pm on 8 May, 2023",
                "session_1": turns,
                "session_2_date_time": "9:00 am on 1 June, 2023",
            }
        }
        source = folder / "two.json"
        source.write_text(json.dumps([item, item]))
        done = play(folder, "--from", str(source))
        assert done.returncode == 0, done.stderr
        assert "3 turns by Ana" in done.stdout
        assert "of 2 conversations" in " ".join(done.stdout.split())
        assert "[bold]June[/bold]" in done.stdout, "what people said is shown as they said it"


@pytest.mark.parametrize("content", ["{}", "[]", "not JSON", '[{"conversation": {"session_1": []}}]'])
def test_a_file_in_another_layout_is_one_line(content: str) -> None:
    with open_folder() as folder:
        source = folder / "other.json"
        source.write_text(content)
        done = play(folder, "--from", str(source))
        assert done.returncode == 1
        assert done.stderr.startswith("error: ")
        assert len(done.stderr.splitlines()) == 1
