"""The built-in rules against small language models: what their hypotheses are worth, on development inputs.

    python -m benchmarks.slm_comparison [--data DIR] [--gguf [NAME=]FILE]... [--base-url URL [--model NAME]]
                                        [--inputs N] [--answers FILE] [--json FILE] [--results FILE] [--quick]

Every model gets the same inputs with the same context, the one that the service would give it; the service's own code
prompts, checks, repairs and reads the answers. Rows: `local`, the built-in rules; `builtin`, the packaged SmolLM2; a
row for each GGUF file, run like the built-in one (one thread) and called NAME or as the file itself says; a row for a
server. The models take turns, input by input, in random order, so that what else the machine does falls on all alike.
No deadline cuts an answer short.

Users: the person of data/demo, and with --data the ten speakers of LoCoMo's development conversations, each with
what they said, remembered as `embed-service demo` does. Inputs: short, vague requests; with --data also IN3's vague
tasks of at most eight words. A user gets those that are nearest to what they said (no model chooses them), and at most
two users get the same one. --inputs (100) says how many in all; `--answers` writes every hypothesis with its verdicts
as JSON lines, for reading by hand.

The measure, which looks at nothing that a model says about itself:

- A hypothesis *names a true fact* when its words beyond those of the input are, for one of the user's own memories,
  a name or a number of that memory, or two of its specific words. Specific are words in at most 2 % of all users'
  memories; endings are cut off first.
- By chance: the same with the memories of a user from another conversation in place of the user's own. What the
  share is above that is what knowing the user brings.
- It *names something never said* when it holds a name (a capitalised word within a sentence) or a number that is
  neither in the input nor in any of the user's memories. Some are harmless: a common tool offered as an option.
- It *copies the example* when it shares two words with the worked example of the prompt that are neither in the
  input nor in the user's memories: a small model takes an example for the task.
- *Valid* is an answer of the asked shape, at the first try or after the one repair. An answer that is valid and still
  not used (about something else, in another language) counts as failed, with its cause; the service would answer
  with the built-in rules instead.
"""

import argparse
import asyncio
import hashlib
import json
import os
import re
import shutil
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, MutableMapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import structlog
import uvloop
from rich.console import Console
from rich.progress import Progress
from rich.table import Column, Table

from app.api.deps import Services
from app.clients.slm.builtin import PACKAGE_SHA256, BuiltinServer, find_model
from app.clients.slm.local import LocalSLM
from app.clients.slm.model import ModelSLM
from app.clients.slm.resilience import Limits
from app.clients.slm.vllm import VLLMClient
from app.clients.tokenizer import SentencePieceTokenizer
from app.domain import wording
from app.domain.calibration import label_features, prior_of
from app.domain.errors import ModelUnavailable
from app.domain.extraction import statements_in
from app.domain.hypotheses import Hypothesis, HypothesisContext, shown_hypotheses
from app.domain.instructions import HYPOTHESES, PROMPT_VERSION
from app.domain.memory import Draft, MemoryType
from app.ports import SLM
from app.services.keys import DEFAULT_TENANT
from app.settings import Settings
from app.wiring import open_services
from benchmarks.report import arguments, describe_machine, new_progress

ROOT = Path(__file__).resolve().parents[1]

SPECIFIC_SHARE = 0.02
"""A word in more of the memories than this tells nothing about one user."""

LONGEST_TASK = 8
USERS_PER_INPUT = 2
NEAREST = 3
"""An input's nearness to a user is the mean similarity of so many memories."""

REQUESTS = """plan my weekend|plan a trip|write a message to a friend|get fit|cook dinner|build an api|deploy my app
    |find a present|write a speech|book a table|make a budget|learn something new|organise an event|write a blog post
    |help me relax|recommend a book|plan a party|improve my training|decorate my home|prepare a talk|start a project
    |set up monitoring|write tests|fix the build|pick a film|make a playlist|write a cover letter|plan next week
    |find a course|take better pictures"""
"""Vague requests of our own; what is near to a user differs."""

Seen = MutableMapping[str, Any]


@dataclass(frozen=True)
class User:
    """Someone with what they said, session by session; those of one `conversation` share what happened."""

    user_id: str
    conversation: str
    sessions: Sequence[tuple[datetime, Sequence[str]]]

    @cached_property
    def texts(self) -> list[str]:
        """All they said."""
        return [text for _, texts in self.sessions for text in texts]


@dataclass(frozen=True)
class Contender:
    """A row of the table; `about` says what the model is."""

    name: str
    about: str
    slm: SLM


@dataclass(frozen=True)
class Verdict:
    """What the measure says of one hypothesis."""

    is_true: bool
    is_true_by_chance: bool
    is_untrue: bool
    is_copied: bool
    has_evidence: bool


@dataclass(frozen=True)
class Answered:
    """What one model made of one input. `outcome` is `first`, `repaired` or the cause of a failure."""

    seconds: float
    outcome: str
    verdicts: Sequence[Verdict] = ()
    prompt_tokens: int = 0
    completion_tokens: int = 0


@dataclass
class Events:
    """The log of this process, kept instead of written."""

    seen: list[Seen] = field(default_factory=list)

    def __call__(self, _logger: Any, _method: str, event: Seen) -> Seen:
        """Take one event; nothing is written."""
        self.seen.append(event)
        raise structlog.DropEvent

    def taken(self) -> list[Seen]:
        """Those since the last call."""
        seen, self.seen = self.seen, []
        return seen


# ---- the measure


class Facts:
    """What a user's memories state, for asking whether a text names any of it."""

    def __init__(self, memories: Sequence[str], common: Collection[str] = ()) -> None:
        """`common`: stems that say nothing about one user."""
        self._memories = [(values_in(text), telling(text) - frozenset(common)) for text in memories]
        self._words = frozenset[str]().union(*(all_words(text) for text in memories))

    def names_one(self, text: str, said: str) -> bool:
        """Whether `text` says something of one memory that `said` does not: a value of it, or two specific words."""
        new = telling(text) - all_words(said)
        return any(bool(new & values) or len(new & words) >= 2 for values, words in self._memories)

    def names_unsaid(self, text: str, said: str) -> bool:
        """Whether `text` holds a name or a number that neither the memories nor `said` hold."""
        return bool(values_in(text) - self._words - all_words(said))

    def copies(self, text: str, said: str, example: Collection[str]) -> bool:
        """Whether `text` shares two words of `example` that neither the memories nor `said` hold."""
        return len((telling(text) & frozenset(example)) - self._words - all_words(said)) >= 2


def telling(text: str) -> frozenset[str]:
    """The stems of the words that carry meaning, and the numbers."""
    return frozenset(map(stem, wording.content_words(text))) | wording.numbers(text)


def all_words(text: str) -> frozenset[str]:
    """The stems of all words, and the numbers."""
    return frozenset(map(stem, wording.words(text))) | wording.numbers(text)


def values_in(text: str) -> frozenset[str]:
    """The names and numbers in `text`. A capitalised word that opens a sentence or a quotation is no name."""
    inside = re.sub(r"(?:^|[.!?:…]\s+|\n|[\"“‘(]\s*)[^\W\d_][\w'’]*", " ", text)
    return frozenset(map(stem, wording.names(inside))) | wording.numbers(text)


def stem(word: str) -> str:
    """A word without its ending, in lower case."""
    return wording.stem(word.lower())


def example_words(prompt: str) -> frozenset[str]:
    """The telling words of the worked examples in a prompt: of every `"request":"…"` and `"question":"…"` in it."""
    return telling(" ".join(re.findall(r'"(?:request|question)" ?: ?"([^"]*)"', prompt)))


EXAMPLE = example_words(HYPOTHESES)


def common_stems(memories: Mapping[str, Sequence[str]]) -> frozenset[str]:
    """Stems in more than SPECIFIC_SHARE of all users' memories."""
    counts = Counter(word for texts in memories.values() for text in texts for word in telling(text))
    most = max(2.0, SPECIFIC_SHARE * sum(map(len, memories.values())))
    return frozenset(word for word, count in counts.items() if count > most)


def judged(one: Hypothesis, input_text: str, own: Facts, other: Facts) -> Verdict:
    """The measure, on what a hypothesis says."""
    text = f"{one.question}\n{one.request}"
    return Verdict(
        own.names_one(text, input_text),
        other.names_one(text, input_text),
        own.names_unsaid(text, input_text),
        own.copies(text, input_text, EXAMPLE),
        bool(one.evidence),
    )


# ---- users and inputs


def read_users(data: Path | None) -> list[User]:
    """The demo's person, and LoCoMo's speakers where there is `data`. Raises SystemExit when the folder lacks them."""
    users = speakers(ROOT / "data" / "demo" / "conversation.json", is_first_only=True)
    if data is None:
        return users
    try:
        return [*users, *speakers(data / "locomo" / "locomo.json")]
    except OSError as error:
        raise SystemExit(f"--data {data} needs locomo/locomo.json: {error}") from None


def speakers(path: Path, *, is_first_only: bool = False) -> list[User]:
    """The people of a file in LoCoMo's layout, moved in time so that the last session was yesterday."""
    users: list[User] = []
    for number, item in enumerate(json.loads(path.read_text(encoding="utf-8"))):
        held = item["conversation"]
        names = sorted((key for key in held if re.fullmatch(r"session_\d+", key)), key=lambda key: int(key[8:]))
        at = {
            name: datetime.strptime(held[f"{name}_date_time"], "%I:%M %p on %d %B, %Y").replace(tzinfo=UTC)
            for name in names
        }
        moved = datetime.now(UTC) - timedelta(days=1) - max(at.values())
        for speaker in [held["speaker_a"], held["speaker_b"]][: 1 if is_first_only else 2]:
            sessions = [
                (at[name] + moved, [turn["text"].strip() for turn in held[name] if turn["speaker"] == speaker])
                for name in names
            ]
            users.append(User(f"{path.stem}-{number}-{speaker}", f"{path.stem}-{number}", sessions))
    return users


def read_inputs(data: Path | None) -> list[str]:
    """Vague requests: our own, and IN3's short vague tasks where there is `data`."""
    inputs = [each.strip() for each in REQUESTS.split("|")]
    if data is not None:
        try:
            lines = (data / "in3" / "dev.jsonl").read_text(encoding="utf-8").splitlines()
        except OSError as error:
            raise SystemExit(f"--data {data} needs in3/dev.jsonl: {error}") from None
        tasks = [item["task"] for item in map(json.loads, lines) if item["vague"]]
        inputs += [task for task in tasks if len(task.split()) <= LONGEST_TASK]
    return list(dict.fromkeys(inputs))


def assigned(nearness: Mapping[str, Sequence[float]], inputs: Sequence[str], count: int) -> list[tuple[str, str]]:
    """`count` pairs of user and input: users in turn, each with the nearest input that is still free for them."""
    uses: Counter[str] = Counter()
    taken: set[tuple[str, str]] = set()
    pairs: list[tuple[str, str]] = []
    orders = {user: [inputs[at] for at in np.argsort([-each for each in near])] for user, near in nearness.items()}
    while len(pairs) < count:
        before = len(pairs)
        for user, order in orders.items():
            free = [text for text in order if uses[text] < USERS_PER_INPUT and (user, text) not in taken]
            if free and len(pairs) < count:
                pairs.append((user, free[0]))
                taken.add(pairs[-1])
                uses[free[0]] += 1
        if len(pairs) == before:
            break
    return pairs


async def remember(services: Services, users: Sequence[User], progress: Progress) -> None:
    """Every turn as what happened, and what it states on its own."""
    bar = progress.add_task("remembering", total=sum(len(user.texts) for user in users))
    for user in users:
        for at, texts in user.sessions:
            drafts = [
                replace(draft, valid_from=at)
                for text in texts
                for draft in (
                    Draft(MemoryType.HISTORY, text, source="conversation"),
                    *statements_in(text, "conversation"),
                )
            ]
            if drafts:
                await services.memories.add(DEFAULT_TENANT, user.user_id, drafts)
            progress.advance(bar, len(texts))


async def nearness_of(services: Services, users: Sequence[User], inputs: Sequence[str]) -> dict[str, list[float]]:
    """How near every input is to what each user said."""
    asked = await services.embedder.embed(list(inputs))
    near: dict[str, list[float]] = {}
    for user in users:
        cosines = asked @ (await services.embedder.embed(user.texts)).T
        near[user.user_id] = np.sort(cosines, axis=1)[:, -NEAREST:].mean(axis=1).tolist()
    return near


async def context_of(services: Services, user_id: str, text: str) -> HypothesisContext:
    """What the service gives its model for an input."""
    settings = await services.catalogues.settings(DEFAULT_TENANT)
    now = services.hypotheses.clock.now()
    _, context, _ = await services.hypotheses.context(DEFAULT_TENANT, user_id, text, settings, now)
    return context


# ---- the models


async def open_contenders(options: argparse.Namespace, folder: Path, stack: AsyncExitStack) -> list[Contender]:
    """All rows, their servers started."""
    rows = [Contender("local", "the built-in rules: no language model", LocalSLM(SentencePieceTokenizer()))]
    packaged = await asyncio.to_thread(find_model, None, folder)
    for number, (name, path) in enumerate([("builtin", packaged), *map(named_file, options.gguf)]):
        title, about = await asyncio.to_thread(described, path)
        server = BuiltinServer(path, folder / f"model-{number}.log")
        await server.start(300)
        stack.push_async_callback(server.aclose)
        slm = ModelSLM(_client(server.base_url, server.model, "builtin", server.api_key))
        stack.push_async_callback(slm.aclose)
        rows.append(Contender(name or title, about, slm))
    if options.base_url:
        slm = ModelSLM(_client(options.base_url, options.model, "vllm", os.environ.get("SLM_API_KEY")))
        stack.push_async_callback(slm.aclose)
        rows.append(Contender(options.model or "server", f"{options.model or 'its first model'} on a server", slm))
    return rows


def _client(base_url: str, model: str | None, name: str, key: str | None) -> VLLMClient:
    """A client that waits, and whose breaker is open for no time worth mentioning."""
    return VLLMClient(base_url, model, name=name, api_key=key, limits=Limits(budget_s=600.0, reset_s=0.001))


def named_file(given: str) -> tuple[str, Path]:
    """`NAME=FILE` or `FILE`."""
    name, _, path = given.rpartition("=")
    return name, Path(path)


def described(path: Path) -> tuple[str, str]:
    """The name of a GGUF file's model, as the file itself says it, and what else identifies it."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        file.seek(0)
        head = file.read(65536)
    title = gguf_text(head, b"general.name") or path.stem
    said = path.stem if digest == PACKAGE_SHA256 else f"“{title}” by its own metadata"
    return title, f"{said}, {path.stat().st_size / 1e6:.0f} MB, sha256 {digest}, in llama.cpp with one thread"


def gguf_text(head: bytes, key: bytes) -> str:
    """A text among the metadata that a GGUF file begins with: key, type 8, length, bytes."""
    at = head.find(key + b"\x08\x00\x00\x00")
    if at < 0:
        return ""
    at += len(key) + 4
    length = int.from_bytes(head[at : at + 8], "little")
    return head[at + 8 : at + 8 + length].decode(errors="replace")


async def ask(row: Contender, context: HypothesisContext, events: Events) -> tuple[Answered, list[Hypothesis]]:
    """One model's hypotheses for one context, and what it took to get them."""
    events.taken()
    started = time.perf_counter()
    try:
        readings = await row.slm.propose_readings(context)
        weighed = await row.slm.weigh_readings(context, readings)
        if weighed is not None:
            readings = [
                replace(reading, features=label_features(odds))
                for reading, odds in zip(readings, weighed.log_odds, strict=True)
            ]
        failure = ""
    except ModelUnavailable as error:
        readings, failure = [], error.cause
    seconds = time.perf_counter() - started
    seen = events.taken()
    calls = [event for event in seen if event["event"] == "llm_generate"]
    is_repaired = any(event["event"] == "slm_answer_repaired" for event in seen)
    outcome = failure or ("repaired" if is_repaired else "first")
    shown = shown_hypotheses(readings, prior_of(row.slm.name), context.count) if readings else []
    read = sum(event["prompt_tokens"] or 0 for event in calls)
    return Answered(seconds, outcome, (), read, sum(event["completion_tokens"] or 0 for event in calls)), shown


# ---- the table


@dataclass(frozen=True)
class Row:
    """One line of the table, in words, and as numbers by metric."""

    cells: tuple[str, ...]
    metrics: Mapping[str, float]


HEADINGS = (
    "model",
    "inputs",
    "hypotheses an input",
    "name a true fact",
    "by chance",
    "name something never said",
    "copy the example",
    "with evidence",
    "valid at first try",
    "repaired",
    "failed",
    "p50",
    "p95",
    "tokens read",
    "written",
)


def summarised(name: str, answers: Sequence[Answered]) -> Row:
    """What a model's answers come to. Shares are of hypotheses; their 95 % intervals are over inputs."""
    count = len(answers)
    verdicts = [one for answer in answers for one in answer.verdicts]
    true, untrue = (share(answers, name) for name in ("is_true", "is_untrue"))
    chance, copied, evidence = (share(answers, name) for name in ("is_true_by_chance", "is_copied", "has_evidence"))
    outcomes = Counter(answer.outcome for answer in answers)
    first, repaired = outcomes.pop("first", 0) / count, outcomes.pop("repaired", 0) / count
    causes = ", ".join(f"{cause} {number}" for cause, number in outcomes.most_common())
    failed = outcomes.total() / count
    p50, p95 = np.percentile([answer.seconds for answer in answers], [50, 95])
    read = sum(answer.prompt_tokens for answer in answers) / count
    written = sum(answer.completion_tokens for answer in answers) / count
    metrics = {
        "inputs": count,
        "hypotheses_per_input": len(verdicts) / count,
        "true_fact_share": true[0],
        "true_fact_by_chance_share": chance[0],
        "never_said_share": untrue[0],
        "copied_share": copied[0],
        "evidence_share": evidence[0],
        "first_try_share": first,
        "repaired_share": repaired,
        "failed_share": failed,
        "p50_s": float(p50),
        "p95_s": float(p95),
        "prompt_tokens": read,
        "completion_tokens": written,
    }
    cells = (
        name,
        str(count),
        f"{len(verdicts) / count:.1f}",
        _percent(*true),
        f"{chance[0]:.0%}",
        _percent(*untrue),
        f"{copied[0]:.0%}",
        f"{evidence[0]:.0%}",
        f"{first:.0%}",
        f"{repaired:.0%}",
        f"{failed:.0%}{f' ({causes})' if causes else ''}",
        _seconds(float(p50)),
        _seconds(float(p95)),
        f"{read:.0f}",
        f"{written:.0f}",
    )
    return Row(cells, metrics)


def share(answers: Sequence[Answered], verdict: str) -> tuple[float, float, float]:
    """The share of hypotheses with a verdict, and its 95 % interval by bootstrap over inputs; 0 of none is 0."""
    totals = np.array([len(answer.verdicts) for answer in answers])
    hits = np.array([sum(getattr(one, verdict) for one in answer.verdicts) for answer in answers])
    if not totals.sum():
        return 0.0, 0.0, 0.0
    draws = np.random.default_rng(0).integers(0, len(answers), (2000, len(answers)))
    drawn = hits[draws].sum(axis=1) / np.maximum(1, totals[draws].sum(axis=1))
    low, high = np.percentile(drawn, [2.5, 97.5])
    return float(hits.sum() / totals.sum()), float(low), float(high)


def _percent(value: float, low: float, high: float) -> str:
    return f"{value:.0%} ({100 * low:.0f}–{100 * high:.0f})"


def _seconds(value: float) -> str:
    return f"{1000 * value:.0f} ms" if value < 1 else f"{value:.1f} s"


# ---- the run


def main() -> None:
    """Run the comparison."""
    own, rest = own_arguments()
    options = arguments(__doc__, rest)
    machine = describe_machine(("xllamacpp", "openai", "onnxruntime"))
    events = Events()
    structlog.configure(processors=[events])
    folder = Path(tempfile.mkdtemp(prefix="embed-bench-")).resolve()
    folder.chmod(0o711)  # a database server that is not root has to reach its files
    count = 6 if options.quick else own.inputs
    try:
        with new_progress(Console(stderr=True)) as progress:
            rows, answers = uvloop.run(run(own, options.data, count, folder, events, progress))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    machine |= {"prompts": PROMPT_VERSION} | {row.name: row.about for row in rows}
    machine["load average at the end"] = ", ".join(f"{each:.2f}" for each in os.getloadavg())
    lines = [summarised(row.name, answers[row.name]) for row in rows]
    note = (
        f"Users and inputs from {'LoCoMo, IN3 and ' if options.data else ''}data/demo; three hypotheses are asked for."
    )
    if options.quick:
        note += " A quick run: nothing to compare."
    show(lines, machine, note)
    command = " ".join(["python -m benchmarks.slm_comparison", *shown_flags(own, options)])
    if options.json:
        flat = {f"{slug(line.cells[0])}/{metric}": value for line in lines for metric, value in line.metrics.items()}
        options.json.write_text(json.dumps(flat, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    if options.results:
        options.results.write_text(as_markdown(command, lines, machine, note), encoding="utf-8")


def own_arguments(argv: Sequence[str] | None = None) -> tuple[argparse.Namespace, list[str]]:
    """The options of this benchmark, and the arguments that every benchmark takes."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--gguf", action="append", default=[])
    parser.add_argument("--base-url")
    parser.add_argument("--model")
    parser.add_argument("--inputs", type=int, default=100)
    parser.add_argument("--answers", type=Path)
    return parser.parse_known_args(argv)


def shown_flags(own: argparse.Namespace, options: argparse.Namespace) -> list[str]:
    """The options that make a difference to the figures, without anybody's folders."""
    flags = ["--data DIR"] if options.data else []
    flags += ["--gguf NAME=FILE"] * len(own.gguf) + (["--base-url URL"] if own.base_url else [])
    return [*flags, f"--inputs {own.inputs}", *(["--quick"] if options.quick else [])]


async def run(
    own: argparse.Namespace, data: Path | None, count: int, folder: Path, events: Events, progress: Progress
) -> tuple[list[Contender], dict[str, list[Answered]]]:
    """Every model on every input."""
    defaults: dict[str, Any] = {name: each.get_default() for name, each in Settings.model_fields.items()}
    settings = Settings(_env_file=None, **defaults | {"data_dir": folder / "data", "log_dir": folder})  # pyright: ignore[reportCallIssue]
    users, inputs = read_users(data), read_inputs(data)
    memories = {user.user_id: user.texts for user in users}
    common = common_stems(memories)
    facts = {user_id: Facts(texts, common) for user_id, texts in memories.items()}
    others = {user.user_id: stranger(user, users) for user in users}
    random = Random(1)
    answers: dict[str, list[Answered]] = defaultdict(list)
    async with AsyncExitStack() as stack:
        book = stack.enter_context((own.answers or Path(os.devnull)).open("w", encoding="utf-8", buffering=1))
        services = await stack.enter_async_context(open_services(settings))
        await remember(services, users, progress)
        pairs = assigned(await nearness_of(services, users, inputs), inputs, count)
        rows = await open_contenders(own, folder, stack)
        await warm_up(rows, await context_of(services, *pairs[0]), events)
        bar = progress.add_task("asking", total=len(pairs) * len(rows))
        for user_id, text in pairs:
            context = await context_of(services, user_id, text)
            other = facts.get(others[user_id]) or Facts(())
            for row in random.sample(rows, len(rows)):
                answered, shown = await ask(row, context, events)
                verdicts = [judged(one, text, facts[user_id], other) for one in shown]
                answers[row.name].append(replace(answered, verdicts=verdicts))
                kept = as_document(row.name, user_id, text, answered, shown, verdicts)
                book.write(json.dumps(kept, ensure_ascii=False) + "\n")
                progress.advance(bar)
    return rows, answers


def as_document(
    name: str, user_id: str, text: str, answered: Answered, shown: Sequence[Hypothesis], verdicts: Sequence[Verdict]
) -> dict[str, Any]:
    """One answer, for reading by hand."""
    made = [
        {"question": one.question, "request": one.request, **vars(verdict)}
        for one, verdict in zip(shown, verdicts, strict=True)
    ]
    kept = {"model": name, "user": user_id, "input": text, "seconds": round(answered.seconds, 3)}
    return {**kept, "outcome": answered.outcome, "hypotheses": made}


async def warm_up(rows: Sequence[Contender], context: HypothesisContext, events: Events) -> None:
    """Let every model read its first prompt, and load what is loaded once."""
    for row in rows:
        await ask(row, context, events)


def stranger(user: User, users: Sequence[User]) -> str:
    """The next user who is not of the same conversation; empty where there is none."""
    at = users.index(user)
    return next((each.user_id for each in [*users[at:], *users[:at]] if each.conversation != user.conversation), "")


def slug(name: str) -> str:
    """A name as a part of a metric's path."""
    return re.sub(r"[^a-z0-9.]+", "-", name.lower()).strip("-")


def show(rows: Sequence[Row], machine: Mapping[str, str], note: str) -> None:
    """Print the table, turned so that it fits a terminal: a column for each model."""
    console = Console()
    if not console.is_terminal:
        console.width = 140
    table = Table(Column("", no_wrap=True), *(Column(row.cells[0], justify="right") for row in rows))
    for number, heading in enumerate(HEADINGS[1:], start=1):
        table.add_row(heading, *(row.cells[number] for row in rows))
    console.print(table)
    for name, value in machine.items():
        console.print(f"{name}: {value}", highlight=False)
    console.print(note, highlight=False)


def as_markdown(command: str, rows: Sequence[Row], machine: Mapping[str, str], note: str) -> str:
    """The results file."""
    lines = ["# Language models compared", "", "```sh", command, "```", ""]
    lines += [*(f"- {name}: {value}" for name, value in machine.items()), "", note, ""]
    lines += [f"| {' | '.join(HEADINGS)} |", "|---|" + "---:|" * (len(HEADINGS) - 1)]
    lines += [f"| {' | '.join(row.cells)} |" for row in rows]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
