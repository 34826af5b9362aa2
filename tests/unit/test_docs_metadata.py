"""scripts/update_docs_metadata.py keeps the line "Last updated" true, in a repository made for each test."""

import os
import subprocess
from datetime import date, timedelta
from pathlib import Path

import pytest

from scripts.update_docs_metadata import LINE, is_true, main, with_line, without_line

PAGE = "# Title\n\nText.\n\n## More\n\nText.\n"
NAMES = {"GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@example.org", "GIT_CONFIG_GLOBAL": os.devnull}
NAMES |= {"GIT_COMMITTER_NAME": "a", "GIT_COMMITTER_EMAIL": "a@example.org", "GIT_CONFIG_SYSTEM": os.devnull}


class Repository:
    """A checkout with pages."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "docs").mkdir(parents=True)
        self.git("init", "-q")

    def git(self, *arguments: str, at: str = "2025-01-01") -> None:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
        moment = f"{at}T12:00:00+00:00"
        environment = {**kept, **NAMES, "GIT_AUTHOR_DATE": moment, "GIT_COMMITTER_DATE": moment}
        subprocess.run(["git", *arguments], cwd=self.root, env=environment, check=True, capture_output=True)

    def commit(self, at: str) -> None:
        self.git("add", "docs")
        self.git("commit", "-qm", "change", at=at)

    def write(self, text: str, name: str = "page.md") -> None:
        (self.root / "docs" / name).write_text(text)

    def read(self, name: str = "page.md") -> str:
        return (self.root / "docs" / name).read_text()

    def run(self, *flags: str) -> int:
        return main(["--root", str(self.root), *flags])


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Repository:
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)
    return Repository(tmp_path / "checkout")


def line(day: str) -> str:
    return LINE.format(date=day)


def test_a_page_gets_the_line_of_its_last_commit_and_a_second_run_changes_nothing(repository: Repository) -> None:
    repository.write(PAGE)
    repository.commit("2025-03-04")

    assert repository.run("--check") == 1
    assert repository.run() == 0
    assert repository.read() == f"# Title\n\n{line('2025-03-04')}\n\nText.\n\n## More\n\nText.\n"
    before = repository.read()
    assert repository.run() == 0
    assert repository.read() == before
    assert repository.run("--check") == 0


def test_a_commit_of_the_line_alone_does_not_count(repository: Repository) -> None:
    """Else each update would make itself wrong."""
    repository.write(PAGE)
    repository.commit("2025-03-04")
    repository.run()
    repository.commit("2025-06-01")

    assert repository.run("--check") == 0
    assert line("2025-03-04") in repository.read()


def test_a_clean_clone_checks_true_whatever_the_files_times(repository: Repository, tmp_path: Path) -> None:
    repository.write(PAGE)
    repository.commit("2025-03-04")
    repository.run()
    repository.commit("2025-03-05")
    subprocess.run(["git", "clone", "-q", repository.root, tmp_path / "clone"], check=True, capture_output=True)

    assert main(["--root", str(tmp_path / "clone"), "--check"]) == 0


def test_what_is_not_committed_is_of_today(repository: Repository) -> None:
    repository.write(PAGE)
    repository.commit("2025-03-04")
    repository.run()
    repository.commit("2025-03-04")
    repository.write(repository.read() + "New.\n")

    assert repository.run("--check") == 1
    assert repository.run() == 0
    assert line(date.today().isoformat()) in repository.read()


@pytest.mark.parametrize(("committed", "status"), [("2025-03-05", 0), ("2025-03-06", 1)])
def test_a_page_may_be_committed_the_day_after_it_was_written(
    repository: Repository, committed: str, status: int
) -> None:
    repository.write(with_line(PAGE, date(2025, 3, 4)))
    repository.commit(committed)

    assert repository.run("--check") == status


def test_a_later_change_of_content_makes_it_wrong(repository: Repository) -> None:
    repository.write(with_line(PAGE, date(2025, 3, 4)))
    repository.commit("2025-03-04")
    repository.write(repository.read() + "New.\n")
    repository.commit("2025-04-01")
    repository.write("# Other\n", "other.md")
    repository.commit("2025-05-01")

    assert repository.run() == 0
    assert line("2025-04-01") in repository.read()
    assert line("2025-05-01") in repository.read("other.md")


def test_a_shallow_clone_says_so_and_leaves_the_lines_alone(
    repository: Repository, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    repository.write(PAGE)
    repository.commit("2025-03-04")
    repository.write(PAGE + "New.\n")
    repository.commit("2025-04-04")
    origin = f"file://{repository.root}"
    subprocess.run(["git", "clone", "-q", "--depth=1", origin, tmp_path / "clone"], check=True, capture_output=True)

    assert main(["--root", str(tmp_path / "clone")]) == 0
    assert "shallow" in capsys.readouterr().out
    assert "Last updated" not in (tmp_path / "clone/docs/page.md").read_text()


def test_outside_of_git_and_without_a_title_it_says_what_is_wrong(
    repository: Repository, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--root", str(tmp_path)]) == 2
    assert "no git checkout" in capsys.readouterr().err
    repository.write("Text without a title.\n")
    repository.commit("2025-03-04")
    assert repository.run() == 2
    assert "docs/page.md" in capsys.readouterr().err


def test_the_line_comes_and_goes_without_a_trace() -> None:
    for text in (PAGE, "# Title\n", "# Title\nText.\n"):
        made = with_line(text, date(2025, 1, 2))
        assert with_line(made, date(2025, 1, 2)) == made
        assert without_line(made) == without_line(text)
    assert without_line(with_line(PAGE, date(2025, 1, 2))) == PAGE
    moved = f"{PAGE}\n{line('2025-01-02')}\n"
    assert not is_true(moved, date(2025, 1, 2), is_committed=True)
    assert not is_true(with_line(PAGE, date(2025, 1, 2)), date(2025, 1, 2) + timedelta(days=2), is_committed=True)
