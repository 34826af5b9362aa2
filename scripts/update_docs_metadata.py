"""Keep the line "Last updated" under the title of every page in docs/ true, from git.

    python scripts/update_docs_metadata.py [--check] [--root DIR]

A page's date is the author's date of the last commit that changed anything of it but this line; today where there are
changes that are not committed. A line that is a day off stands, because a page may be committed the day after it was
written: so a commit never makes its own line wrong. --check writes nothing. Exit status: 0 every line is true (or made
so), 1 with --check a line is not, 2 it cannot be told. In a shallow clone the history is cut off: then it says so,
leaves the lines alone, and ends with 0.
"""

import argparse
import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from datetime import date, timedelta
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LINE = "> **Last updated:** {date} _(auto-synced; run `python scripts/update_docs_metadata.py`)_"
TOLERANCE = timedelta(days=1)

_LINE = re.compile(r"^> \*\*Last updated:\*\* (\S+) .*\n\n?", re.MULTILINE)
_TITLE = re.compile(r"\A# .+\n+")


def without_line(text: str) -> str:
    """A page without the line: what counts as its content. One blank line stands under the title in any case."""
    return _TITLE.sub(lambda title: f"{title[0].rstrip()}\n\n", _LINE.sub("", text, count=1))


def with_line(text: str, updated: date) -> str:
    """A page whose line under the title says `updated`. Raises ValueError for a page without a title."""
    content = without_line(text)
    title = _TITLE.match(content)
    if title is None:
        raise ValueError("it does not begin with a title, # …")
    return f"{title[0]}{LINE.format(date=updated.isoformat())}\n\n{content[title.end() :]}"


def is_true(text: str, updated: date, is_committed: bool) -> bool:
    """Whether a page's line says when it was updated; of what is committed it may be a day off."""
    found = _LINE.search(text)
    try:
        said = date.fromisoformat(found[1]) if found else None
    except ValueError:
        said = None
    if said is None or with_line(text, said) != text:  # missing, no date, or in another place
        return False
    return abs(said - updated) <= (TOLERANCE if is_committed else timedelta())


def last_change(commits: Iterable[tuple[str, date]], content_of: Callable[[str], str]) -> date | None:
    """The date of the newest of `commits` (name and author's date, newest first) that changed the content; None for
    none. `content_of` gives the page at a revision, empty where it was not there."""
    for commit, made_at in commits:
        if without_line(content_of(commit)) != without_line(content_of(f"{commit}^")):
            return made_at
    return None


class History:
    """What git knows of a checkout."""

    def __init__(self, root: Path) -> None:
        """Raises ValueError where `root` is no checkout, or git is missing."""
        self.root = root
        try:
            self._git("rev-parse", "--git-dir")
        except (OSError, subprocess.CalledProcessError):
            raise ValueError(f"{root} is no git checkout, or there is no git: the dates come from there.") from None

    @property
    def is_cut_off(self) -> bool:
        """Whether it is a shallow clone."""
        return self._git("rev-parse", "--is-shallow-repository").strip() == "true"

    def updated(self, page: str, text: str, today: date) -> tuple[date, bool]:
        """When a page, which reads `text` now, was updated, and whether it is committed like that."""
        if without_line(self._at("HEAD", page)) != without_line(text):
            return today, False
        lines = self._git("log", "--format=%H %as", "--", page).splitlines()
        commits = ((name, date.fromisoformat(day)) for name, day in (line.split() for line in lines))
        found = last_change(commits, lambda revision: self._at(revision, page))
        return (today, False) if found is None else (found, True)

    def _at(self, revision: str, page: str) -> str:
        try:
            return self._git("show", f"{revision}:./{page}")
        except subprocess.CalledProcessError:
            return ""

    def _git(self, *arguments: str) -> str:
        command = ["git", "-C", str(self.root), *arguments]
        return subprocess.run(command, check=True, capture_output=True, encoding="utf8").stdout  # noqa: S603


def update(history: History, today: date, is_checking: bool) -> list[str]:
    """Make the lines of docs/*.md true, or only look; the pages whose line was not, with their dates. Raises ValueError
    for a page without a title."""
    wrong: list[str] = []
    for path in sorted((history.root / "docs").glob("*.md")):
        page, text = path.relative_to(history.root).as_posix(), path.read_text("utf8")
        try:
            updated, is_committed = history.updated(page, text, today)
            if is_true(text, updated, is_committed):
                continue
            new = with_line(text, updated)
        except ValueError as error:
            raise ValueError(f"{page}: {error}") from None
        wrong.append(f"{page}: {updated}")
        if not is_checking:
            path.write_text(new, "utf8")
    return wrong


def main(argv: Sequence[str] | None = None) -> int:
    """See the module's text."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; status 1 where a line is not true")
    parser.add_argument("--root", type=Path, default=ROOT, metavar="DIR", help="another checkout")
    given = parser.parse_args(argv)
    try:
        history = History(given.root)
        if history.is_cut_off:
            print("This is a shallow clone: its history does not say when pages changed. The lines are left alone.")
            return 0
        wrong = update(history, date.today(), given.check)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    print("\n".join(wrong) if wrong else "Every line is true.")
    if wrong and given.check:
        print("Run `python scripts/update_docs_metadata.py`.", file=sys.stderr)
    return 1 if wrong and given.check else 0


if __name__ == "__main__":
    raise SystemExit(main())
