"""Events are JSON lines in the file and on stdout, with the request's id, whoever logs them."""

import logging
import sys
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest
import structlog

from app.logs import LOG_FILE, configure_logs


@pytest.fixture(autouse=True)
def _restore_logging() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    yield
    for handler in root.handlers:
        if handler not in handlers:
            handler.close()
    root.handlers, root.level = handlers, level
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()


def lines(folder: Path) -> list[dict[str, object]]:
    return [orjson.loads(line) for line in (folder / LOG_FILE).read_bytes().splitlines()]


def test_both_kinds_of_loggers_write_the_same_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    configure_logs(tmp_path / "logs")
    structlog.contextvars.bind_contextvars(request_id="r1")
    structlog.get_logger("app.one").info("memory_added", count=2, path=tmp_path, name="Zoë")
    logging.getLogger("other").warning("old %s", "style")
    first, second = lines(tmp_path / "logs")
    assert (first["event"], first["count"], first["request_id"], first["level"]) == ("memory_added", 2, "r1", "info")
    assert (first["path"], first["name"], first["logger"]) == (str(tmp_path), "Zoë", "app.one")
    assert str(first["timestamp"]).endswith("Z")
    assert (second["event"], second["logger"], second["request_id"]) == ("old style", "other", "r1")
    printed = [orjson.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [{**line, "timestamp": ""} for line in printed] == [{**line, "timestamp": ""} for line in (first, second)]


def test_an_exception_is_one_line(tmp_path: Path) -> None:
    configure_logs(tmp_path, to_stdout=False)
    try:
        raise ValueError("first\nsecond")
    except ValueError:
        structlog.get_logger("app.two").exception("task_failed")
    [line] = lines(tmp_path)
    assert line["level"] == "error"
    assert "second" in str(line["exception"])


def test_the_level_is_a_floor_and_a_second_call_does_not_double_lines(tmp_path: Path) -> None:
    configure_logs(tmp_path, "DEBUG", to_stdout=False)
    configure_logs(tmp_path, "WARNING", to_stdout=False)
    log = structlog.get_logger("app.three")
    log.info("not_said")
    log.warning("said_once")
    assert [line["event"] for line in lines(tmp_path)] == ["said_once"]
    assert sys.stdout not in [getattr(handler, "stream", None) for handler in logging.getLogger().handlers]
