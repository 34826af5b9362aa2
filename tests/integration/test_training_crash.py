"""Several processes write training samples at once and some are killed: every line parses, and no line
that was acknowledged is lost."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import orjson

from app.domain.training import PREFERENCES_FILE
from app.services.training import TrainingDataCollector

MAX_BYTES = 400_000
STEADY, DOOMED = 2, 5
LINES = 150
# Forks writers that acknowledge each line in a file of their own, one byte a line, prints their process
# ids and waits for them. The doomed ones write for ever, and lines of many pages, so that a kill can fall
# into the middle of a write.
WRITERS = """
import logging, os, sys
from pathlib import Path
import structlog
from app.services.training import TrainingDataCollector

structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
directory, max_bytes, steady, doomed, lines = Path(sys.argv[1]), *map(int, sys.argv[2:])


def write(name, text, count):
    collector = TrainingDataCollector(directory, is_enabled=True, max_bytes=max_bytes)
    with open(directory / f"{name}.acknowledged", "ab", buffering=0) as acknowledged:
        number = 0
        while count is None or number < count:
            collector.log_preference_comparison(name, str(number), text, "tie")
            acknowledged.write(b".")
            number += 1


def fork(name, text, count):
    child = os.fork()
    if child == 0:
        write(name, text, count)
        os._exit(0)
    return child


children = [fork(f"steady{n}", "short", lines) for n in range(steady)]
children += [fork(f"doomed{n}", "long " * 12_000, None) for n in range(doomed)]
print(*children, flush=True)
for child in children:
    os.waitpid(child, 0)
"""


def acknowledged(directory: Path, name: str) -> int:
    path = directory / f"{name}.acknowledged"
    return path.stat().st_size if path.exists() else 0


def test_killed_writers_lose_nothing_they_acknowledged(tmp_path: Path) -> None:
    arguments = [tmp_path, MAX_BYTES, STEADY, DOOMED, LINES]
    with subprocess.Popen(
        [sys.executable, "-c", WRITERS, *map(str, arguments)], stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]
    ) as writers:
        assert writers.stdout
        children = [int(child) for child in writers.stdout.readline().split()]
        assert len(children) == STEADY + DOOMED
        for number, victim in enumerate(children[STEADY:]):
            while acknowledged(tmp_path, f"doomed{number}") < 4:
                assert writers.poll() is None
                time.sleep(0.001)
            os.kill(victim, signal.SIGKILL)
    assert writers.returncode == 0

    collector = TrainingDataCollector(tmp_path, is_enabled=True, max_bytes=MAX_BYTES)
    assert collector.log_preference_comparison("last", "0", "b", "tie")  # repairs what the last kill tore
    paths = list(tmp_path.glob("preferences*.jsonl"))
    samples = [orjson.loads(line) for path in paths for line in path.read_bytes().splitlines()]
    assert len(paths) > 1
    assert all(path.stat().st_size <= MAX_BYTES for path in paths)
    written = [(sample["user_id"], int(sample["hypothesis_a"])) for sample in samples]
    assert len(written) == len(set(written))
    for name in [*(f"steady{n}" for n in range(STEADY)), *(f"doomed{n}" for n in range(DOOMED))]:
        assert {(name, number) for number in range(acknowledged(tmp_path, name))} <= set(written)
    assert sum(name.startswith("steady") for name, _ in written) == STEADY * LINES
    assert len(list(collector.get_preference_data())) == len(samples)
    assert collector.damaged_lines[PREFERENCES_FILE] == 0


def test_a_user_is_erased_while_others_write(tmp_path: Path) -> None:
    collector = TrainingDataCollector(tmp_path, is_enabled=True, max_bytes=20_000)
    is_done = threading.Event()
    kept = 0

    def write() -> None:
        nonlocal kept
        while not is_done.is_set():
            collector.log_preference_comparison("kept", str(kept), "b", "tie")
            kept += 1

    for number in range(50):
        collector.log_preference_comparison("erased", str(number), "b", "tie")
    thread = threading.Thread(target=write)
    thread.start()
    time.sleep(0.05)
    removed = collector.erase_user("default", "erased")
    time.sleep(0.02)
    is_done.set()
    thread.join()
    assert removed[PREFERENCES_FILE] == 50
    assert [one["hypothesis_a"] for one in collector.get_preference_data()] == [str(n) for n in range(kept)]
