"""`embed-service demo`: a whole session in the terminal, on the real services in a temporary folder.

Remember a conversation as if its last session had been yesterday, ask what a vague input means, execute, give
feedback, ask again until the service stops asking, search, erase. The folder holds its own database and model and is
gone at the end, however it ends; the settings of the environment that name a database, a model server or a folder
are not used.
"""

import asyncio
import json
import logging
import re
import shutil
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Generator, Mapping, Sequence
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

from rich.bar import Bar
from rich.console import Console
from rich.padding import Padding
from rich.panel import Panel
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from app.api.deps import Services
from app.domain import wording
from app.domain.errors import InvalidInput
from app.domain.extraction import statements_in
from app.domain.memory import Draft, Memory, MemoryType
from app.domain.persona import describe
from app.domain.ranking import Weights
from app.logs import configure_logs
from app.services.choices import ExecuteRequest
from app.services.context import Execution
from app.services.feedback import Feedback
from app.services.hypotheses import HypothesisSet
from app.services.keys import DEFAULT_TENANT
from app.services.ranking import SearchRequest
from app.settings import Settings, load_settings_or_exit
from app.wiring import open_services

CONVERSATION = Path(__file__).resolve().parents[1] / "data" / "demo" / "conversation.json"
ITS_INPUT = "deploy my app"
ITS_QUESTION = "which cloud platform do we use"
INPUTS = ("plan my weekend", "plan a trip", "write a message to a friend", "get fit", "cook dinner", "build an api")
"""Vague inputs for other conversations; the one nearest to what was said is taken."""

COMMENT = "too brief"
MAX_ROUNDS = 12
FOUND = 3
SECTION_LINES = 5

REPEATS = ("My editor is Vim", "my editor is vim.", "My editor is Emacs")
"""A fact, the same again, and what replaces it: no conversation has to contain them."""


@dataclass(frozen=True)
class Session:
    """One sitting: when it was, and what the user said in it."""

    at: datetime
    texts: tuple[str, ...]


@dataclass(frozen=True)
class Conversation:
    """What one speaker said, session by session."""

    user: str
    sessions: tuple[Session, ...]
    note: str = ""
    moved_by: timedelta = timedelta(0)
    """How much later than it was the conversation is played."""

    @property
    def turns(self) -> int:
        """How many turns there are to remember."""
        return sum(len(session.texts) for session in self.sessions)


def play(source: Path | None, console: Console) -> None:
    """Play the session on the conversation in `source`, or on the one that comes with the service.

    Raises InvalidInput when the file is not in LoCoMo's layout, StoreUnavailable or ModelUnavailable when the
    services do not start.
    """
    conversation = read_conversation(source or CONVERSATION)
    started = time.monotonic()
    with _temporary_folder() as folder:
        try:
            asyncio.run(_Play(_moved(conversation, datetime.now(UTC)), source is None, console).run(_settings(folder)))
        except asyncio.CancelledError:
            raise SystemExit(128 + signal.SIGTERM) from None
    console.print(f"\nThat was all: {time.monotonic() - started:.1f} s. Nothing of it is left on the disk.")


def read_conversation(path: Path) -> Conversation:
    """The first conversation in a file of LoCoMo's layout, as its first speaker's turns. Raises InvalidInput."""
    try:
        document: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InvalidInput(f"cannot read {path}: {error}", "from") from error
    items: list[Any] = cast(list[Any], document) if isinstance(document, list) else [document]
    try:
        held: dict[str, Any] = items[0]["conversation"]
        names = [match for key in held if (match := re.fullmatch(r"session_(\d+)", key))]
        user = str(held.get("speaker_a") or held[names[0].string][0]["speaker"])
        sessions = [_session(held, match.string, user) for match in sorted(names, key=lambda match: int(match[1]))]
    except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
        raise InvalidInput(
            f"{path} is not in LoCoMo's layout, a list of items with conversation.session_1 and "
            f"conversation.session_1_date_time: {type(error).__name__} {error}",
            "from",
        ) from error
    sessions = [session for session in sessions if session.texts]
    if not sessions:
        raise InvalidInput(f"{path}: the speaker {user} says nothing in its first conversation", "from")
    note = f"the first of {len(items)} conversations in the file" if len(items) > 1 else ""
    return Conversation(user, tuple(sorted(sessions, key=lambda session: session.at)), note)


def _session(held: Mapping[str, Any], name: str, user: str) -> Session:
    at = datetime.strptime(held[f"{name}_date_time"], "%I:%M %p on %d %B, %Y").replace(tzinfo=UTC)
    said = [str(turn["text"]).strip() for turn in held[name] if turn["speaker"] == user]
    return Session(at, tuple(text for text in said if text))


def _moved(conversation: Conversation, now: datetime) -> Conversation:
    """The conversation, its last session a day before `now`: what is said last has to be fresh when it is asked for."""
    by = now - timedelta(days=1) - conversation.sessions[-1].at
    sessions = tuple(Session(session.at + by, session.texts) for session in conversation.sessions)
    return replace(conversation, sessions=sessions, moved_by=by)


@contextmanager
def _temporary_folder() -> Generator[Path]:
    """A folder that is removed at the end; the log in it is closed first."""
    folder = Path(tempfile.mkdtemp(prefix="embed-demo-"))
    folder.chmod(0o711)  # the database may run as another user, who has to pass through
    try:
        yield folder
    finally:
        root = logging.getLogger()
        for handler in root.handlers:
            handler.close()
        root.handlers = []
        shutil.rmtree(folder, ignore_errors=True)


def _settings(folder: Path) -> Settings:
    return load_settings_or_exit(
        _env_file=None,
        data_dir=folder,
        log_dir=folder / "logs",
        database_url=None,
        embed_endpoint=None,
        embed_dims=None,
        embed_revision=None,
        embed_pooling=None,
        embed_prefix=None,
        slm_impl="local",
        enable_training_data_collection=True,
        training_data_dir=None,
    )


class _Play:
    """The acts, in order, on one console."""

    def __init__(self, conversation: Conversation, is_own: bool, console: Console) -> None:
        self._conversation = conversation
        self._user = conversation.user
        self._is_own = is_own
        self._console = console
        self._bar_width = 24 if console.width >= 100 else 12

    async def run(self, settings: Settings) -> None:
        """All acts. A polite request to end (SIGTERM, SIGHUP) cleans up as Ctrl-C does."""
        task = asyncio.current_task()
        assert task is not None
        for number in (signal.SIGTERM, signal.SIGHUP):
            asyncio.get_running_loop().add_signal_handler(number, task.cancel)
        configure_logs(settings.log_dir, "WARNING", to_stdout=False)
        self._introduce()
        async with AsyncExitStack() as stack:
            started = time.monotonic()
            with self._console.status("Starting a database and the embedding model …"):
                services = await stack.enter_async_context(open_services(settings))
            self._say(f"A database of its own and the embedding model are up after {time.monotonic() - started:.1f} s.")
            await self._remember(services)
            await self._repeat(services)
            asked = await self._choose_input(services)
            shown = await self._ask(services, asked, settings.auto_advance_confidence)
            execution = await self._execute(services, asked, shown, settings.token_budget)
            await self._feedback(services, execution)
            await self._ask_again(services, asked, shown, settings.auto_advance_confidence)
            await self._search(services, ITS_QUESTION if self._is_own else asked)
            await self._erase(services)

    def _introduce(self) -> None:
        sessions = self._conversation.sessions
        first, last = (_day(session.at - self._conversation.moved_by) for session in (sessions[0], sessions[-1]))
        self._console.print(Text(f"Embed Service: a session with {self._user}", style="bold"))
        note = f" ({self._conversation.note})" if self._conversation.note else ""
        self._say(
            f"{len(sessions)} sessions from {first} to {last}, {self._conversation.turns} turns by {self._user}{note}. "
            "It is played as if the last session had been yesterday, in a temporary folder."
        )

    async def _remember(self, services: Services) -> None:
        self._title("1  Remember")
        merged = replaced = 0
        counts: Counter[MemoryType] = Counter()
        progress = Progress(
            TextColumn("Remembering"),
            BarColumn(bar_width=self._bar_width * 2),
            MofNCompleteColumn(),
            TextColumn("turns"),
            TimeElapsedColumn(),
            console=self._console,
        )
        with progress:
            task = progress.add_task("", total=self._conversation.turns)
            for session in self._conversation.sessions:
                drafts = _drafts(session)
                added = await services.memories.add(DEFAULT_TENANT, self._user, drafts)
                merged += added.deduplicated
                replaced += len(added.superseded)
                counts.update(draft.type for draft in drafts)
                progress.advance(task, len(session.texts))
        self._bars("what was remembered", [(str(kind), count, str(count)) for kind, count in counts.most_common()])
        self._say(
            f"{counts.total()} statements: {counts.total() - merged} new memories, {merged} merged into one that says "
            f"the same, {replaced} superseded by a newer one."
        )

    async def _repeat(self, services: Services) -> None:
        """What happens to a fact that is said again, and to one that no longer holds; forgotten afterwards."""
        table = _table("said after that, and forgotten again", "what became of it")
        held: dict[Any, str] = {}
        for text in REPEATS:
            draft = Draft(MemoryType.PREFERENCE, text, source="demo")
            added = await services.memories.add(DEFAULT_TENANT, self._user, [draft])
            fate = "a new memory"
            if added.deduplicated:
                fate = f"merged into “{held.get(added.ids[0], 'an earlier one')}”"
            elif added.superseded:
                fate = f"supersedes “{held.get(added.superseded[0], 'an earlier one')}”"
            held.setdefault(added.ids[0], text)
            table.add_row(Text(f"“{text}”"), Text(fate))
        for memory_id in held:
            await services.memories.delete_one(DEFAULT_TENANT, memory_id)
        self._console.print(table)

    async def _choose_input(self, services: Services) -> str:
        """The demo's own input, or the one of INPUTS nearest to what was said."""
        if self._is_own:
            return ITS_INPUT
        nearness: dict[str, float] = {}
        for text in INPUTS:
            found = await services.ranking.search(DEFAULT_TENANT, self._user, SearchRequest(text, 3))
            nearness[text] = sum(item.similarity for item in found.ranked)
        return max(INPUTS, key=nearness.__getitem__)

    async def _ask(self, services: Services, asked: str, threshold: float) -> HypothesisSet:
        self._title("2  Ask")
        self._console.print(Text.assemble((f"{self._user}: ", "bold"), asked))
        made = await services.hypotheses.hypothesize(DEFAULT_TENANT, self._user, asked)
        self._say(
            f"Decision: {made.decision}. Clarification need {made.clarification_need:.2f} of 1; above {threshold:.0%} "
            "confidence the service would go ahead without asking."
        )
        for one in made.hypotheses:
            line = Table.grid(padding=(0, 1), expand=False)
            line.add_row(one.id, self._bar(one.confidence), f"{one.confidence:4.0%}", Text(one.question, style="bold"))
            self._console.print(line)
            if not one.evidence:
                self._quote(one.rationale)
            for memory_id in one.evidence:
                memory = await services.memories.get(DEFAULT_TENANT, memory_id)
                self._quote(f"{memory.type} of {_day(memory.valid_from)}: {self._quoted(memory)}")
        rest = 1.0 - sum(one.confidence for one in made.hypotheses)
        line = Table.grid(padding=(0, 1))
        line.add_row("--", self._bar(rest), f"{rest:4.0%}", "none of these")
        self._console.print(line)
        return made

    async def _execute(self, services: Services, asked: str, shown: HypothesisSet, budget: int) -> Execution:
        self._title("3  Execute")
        best = shown.hypotheses[0]
        self._say(f"{self._user} chooses {best.id}. This goes to the language model:")
        execution = await services.context.execute(
            DEFAULT_TENANT, self._user, ExecuteRequest(asked, shown.set_id, best.id)
        )
        prompt = execution.prompt
        body = Text(_clipped(prompt.text))
        body.highlight_regex(r"(?m)^## .*$", "bold cyan")
        body.highlight_regex(r"</?memory[^>]*>", "dim")
        self._console.print(Panel(body, title="enriched prompt", border_style="cyan"))
        parts = sum(prompt.breakdown.values())
        rows = [(name, tokens, str(tokens)) for name, tokens in prompt.breakdown.items()]
        self._bars(
            "tokens by section", [*rows, ("request and joints", prompt.tokens - parts, str(prompt.tokens - parts))]
        )
        line = Table.grid(padding=(0, 1))
        line.add_row("budget", self._bar(prompt.tokens / budget), f"{prompt.tokens:,} of {budget:,} tokens")
        self._console.print(line)
        hidden = ", ".join(f"{kind} {times}" for kind, times in prompt.redactions.items()) or "nothing"
        self._say(f"{len(prompt.uses)} memories are in it. Redacted: {hidden}.")
        return execution

    async def _feedback(self, services: Services, execution: Execution) -> None:
        self._title("4  Feedback")
        self._console.print(Text.assemble((f"{self._user}: ", "bold"), COMMENT))
        deltas = await services.feedback.give(
            DEFAULT_TENANT, self._user, Feedback(execution_id=execution.execution_id, comment=COMMENT)
        )
        persona = await services.personas.get(DEFAULT_TENANT, self._user)
        table = _table("facet", "", "before", "after", "", "±", "shapes prompts")
        for facet in persona.facets.values():
            delta = deltas.get(facet.name, 0.0)
            table.add_row(
                facet.name,
                self._bar(facet.value),
                f"{facet.value - delta:.2f}",
                Text(f"{facet.value:.2f}", style="bold" if delta else ""),
                Text(f"{delta:+.2f}" if delta else "", style="bold"),
                f"{facet.uncertainty:.2f}",
                "yes" if facet.is_expressed else "not yet",
            )
        self._console.print(table)
        lines = describe(persona.facets)
        self._say(
            f"The next prompts say: {' '.join(lines)}"
            if lines
            else "One remark moves a facet and does not yet shape a prompt: its interval still includes neutral."
        )

    async def _ask_again(self, services: Services, asked: str, shown: HypothesisSet, threshold: float) -> None:
        self._title("5  Ask again")
        self._say(f"“{asked}” again and again; {self._user} takes h1 each time. After each choice:")
        table = _table("choices", "h1", "", "h2", "h3", "none", "decision", "calibration")
        made = shown
        for choices in range(MAX_ROUNDS + 1):
            if choices > 0:
                made = await services.hypotheses.hypothesize(DEFAULT_TENANT, self._user, asked)
            confidences = [one.confidence for one in made.hypotheses]
            others = [f"{share:.0%}" for share in (*confidences[1:3], 1.0 - sum(confidences))]
            style = "bold green" if made.decision == "auto_advance" else ""
            table.add_row(
                str(choices),
                self._bar(confidences[0]),
                f"{confidences[0]:.0%}",
                *others,
                Text(made.decision, style=style),
                f"v{made.calibration_version}",
            )
            if made.decision == "auto_advance" or choices == MAX_ROUNDS:
                break
            if choices > 0:  # the first set was answered in act 3
                request = ExecuteRequest(asked, made.set_id, made.hypotheses[0].id)
                await services.context.execute(DEFAULT_TENANT, self._user, request)
        self._console.print(table)
        self._quote(f"h1 is now: {made.hypotheses[0].question}")
        self._say(
            f"From here on the service goes ahead: h1 is above {threshold:.0%}."
            if made.decision == "auto_advance"
            else f"h1 has not passed {threshold:.0%} yet, so the service still asks."
        )

    async def _search(self, services: Services, query: str) -> None:
        """The same question as of the middle and as of the end of the conversation."""
        self._title("6  Search")
        sessions = self._conversation.sessions
        middle, end = sessions[(len(sessions) - 1) // 2 - (len(sessions) > 3)].at, sessions[-1].at
        weights = Weights()
        self._say(
            f"Score = {weights.similarity} similarity + {weights.recency} recency + {weights.confidence} confidence."
        )
        for moment in dict.fromkeys((middle + timedelta(days=1), end + timedelta(days=1))):
            request = SearchRequest(query, FOUND, as_of=moment)
            found = await services.ranking.search(DEFAULT_TENANT, self._user, request)
            self._console.print(Text.assemble((f"“{query}”", "bold"), f", as of {_day(moment)}"))
            table = _table("", "score", "similar", "recent", "sure", "memory")
            for item in found.ranked:
                table.add_row(
                    Bar(1.0, 0.0, item.score, width=self._bar_width // 2, color="green"),
                    *(f"{part:.2f}" for part in (item.score, item.similarity, item.recency, item.confidence)),
                    Text.assemble((f"{item.memory.type} ", "cyan"), self._quoted(item.memory)),
                )
            self._console.print(table)

    async def _erase(self, services: Services) -> None:
        self._title("7  Erase")
        erased = (await services.transfer.erase(DEFAULT_TENANT, self._user)).erased
        self._bars("erased", [(place, count, str(count)) for place, count in erased.items() if count])
        self._say(f"{sum(erased.values())} rows and lines of {self._user} are gone from the tables and training files.")

    def _title(self, text: str) -> None:
        self._console.print()
        self._console.rule(Text(text, style="bold cyan"), align="left", style="cyan")

    def _say(self, text: str) -> None:
        self._console.print(Text(text))

    def _quote(self, text: str) -> None:
        self._console.print(Padding(Text(text, style="dim"), (0, 0, 0, 3)))

    def _quoted(self, memory: Memory) -> str:
        return f"“{wording.snippet(memory.content, 24 if self._console.width >= 100 else 16)}”"

    def _bar(self, share: float) -> Bar:
        return Bar(1.0, 0.0, min(1.0, max(0.0, share)), width=self._bar_width, color="green")

    def _bars(self, title: str, rows: Sequence[tuple[str, float, str]]) -> None:
        most = max((size for _, size, _ in rows), default=0.0) or 1.0
        table = _table(title, "", "")
        for name, size, label in rows:
            table.add_row(name, Bar(most, 0.0, size, width=self._bar_width * 2, color="cyan"), label)
        table.columns[-1].justify = "right"
        self._console.print(table)


def _drafts(session: Session) -> list[Draft]:
    """Every turn as what happened, and what it states on its own."""
    drafts: list[Draft] = []
    for text in session.texts:
        said = Draft(MemoryType.HISTORY, text, source="conversation")
        drafts += [replace(draft, valid_from=session.at) for draft in (said, *statements_in(text, "conversation"))]
    return drafts


def _table(*columns: str) -> Table:
    table = Table(*columns, box=None, pad_edge=False, header_style="dim")
    for column in table.columns[:-1]:
        column.no_wrap = True
    return table


def _day(moment: datetime) -> str:
    return f"{moment.day} {moment:%B %Y}"


def _clipped(prompt: str) -> str:
    """A prompt whose long sections are cut after SECTION_LINES lines, for the eye."""
    sections = prompt.split("\n\n## ")
    cut: list[str] = []
    for section in sections:
        title, *lines = section.splitlines()
        more = len(lines) - SECTION_LINES
        shown = [*lines[:SECTION_LINES], f"… and {more} more"] if more > 0 else lines
        cut.append("\n".join([title, *shown]))
    return "\n\n## ".join(cut)
