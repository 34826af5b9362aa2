"""Simulated users over many sessions through the HTTP API: what the service learns, against learning nothing.

    python -m benchmarks.simulated_users [--data DIR] [--json FILE] [--results FILE] [--plot PNG] [--quick]
                                         [--people N] [--sessions N] [--seed N] [--slm builtin|GGUF]

The service runs as a process of its own: embedded database, built-in embedding model, its rules in place of a language
model. Its two tenants have the same catalogue (`office.yaml`: five things that people ask for, eight options each). 200
people do one task in each of 20 sessions, all of them the first before anybody the second. What somebody means is
hidden: it is drawn from tastes of their own around those of one of four kinds of people, now and then beyond what the
catalogue offers. They say it vaguely, in one of eight wordings of which the catalogue knows none; read the options from
the top and may stop before the end; pick what names all they mean, by mistake another one; else turn all down or say
something in their own words; undo what the service went ahead with and was not meant, and have the right thing done;
say now and then whether it was good, and what they think of the style. After four questions they say all of it.

- `learning`: the service as it is. `off`: the same people with the same goals, words and dice, but under a new name in
  every session, and nobody tells what came of anything: the service has nothing to learn from. (It has no switch for
  that.) Within a task answers count in both.
- `selection_rate`: questions answered by picking an option, of all questions. Where the service has learned, it asks
  about what is hard; `shown` and `first` say of all tasks whether what was meant was among the first hypotheses.
- `regret`: what an all-knowing assistant is worth (1: the right act, no question) less what the task was worth: 1 for
  the right act, less the intent's loss for a wrong one, less the cost of each question. Saying all of it in one's own
  words costs as much as a question. Where the input is left as it is, an assistant takes the first hypothesis every
  other time, else any meaning of the intent.
- Intervals are of 95 %, between people; differences compare everybody with themself.
- `…/calibration_error`, `…/advanced/*`: whether confidences are true; the simulation knows.
- `style/*`: facets of the learning arm at the end, against what people like.
- `decision/*`: on what the run has left, in one process: what deciding costs within `hypothesize`.

`--slm` names a model in place of the rules: `builtin`, the packaged SmolLM2, or a GGUF file. Fewer people then
(`--people 6 --sessions 3`, unless said otherwise), and figures of its cost: milliseconds and tokens a decision.

All 20 sessions pass within minutes: what forgetting does over weeks is not seen here. People are made up; how soon real
ones would be understood depends on how alike they are and how steady. `--data` is taken and not needed.
"""

import argparse
import asyncio
import os
import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
import uvloop
from rich.console import Console
from rich.progress import Progress

from app.logs import configure_logs
from app.settings import Settings
from app.wiring import open_services
from benchmarks.report import Figure, arguments, describe_machine, new_progress, publish
from benchmarks.simulated_users import decision_cost
from benchmarks.simulated_users.findings import figures, style_figures
from benchmarks.simulated_users.office import Office, office
from benchmarks.simulated_users.people import Person, knowing, people, task
from benchmarks.simulated_users.plot import write_plot
from benchmarks.simulated_users.service import ARMS, served
from benchmarks.simulated_users.sessions import Done, Door, Stakes, leanings, perform

QUESTION_COST = 0.1
"""The service's own, and the people's."""

SLM_BUDGET_S = 120.0


@dataclass(frozen=True)
class Plan:
    """How much of it."""

    people: int = 200
    sessions: int = 20
    rounds: int = 1000
    """Hypothesizes of which the decision is timed; 0: none."""


QUICK = Plan(10, 4, 50)
WITH_MODEL = Plan(6, 3, 0)


@dataclass(frozen=True)
class Outcome:
    """What became of all tasks by arm, the facets at the end, and what a model counted."""

    arms: Mapping[str, Sequence[Done]]
    style: Sequence[dict[str, tuple[float, bool]]]
    tokens: Mapping[str, float]


def main() -> None:
    """Run the benchmark."""
    own = argparse.ArgumentParser(add_help=False)
    own.add_argument("--people", type=int)
    own.add_argument("--sessions", type=int)
    own.add_argument("--seed", type=int, default=1)
    own.add_argument("--plot", type=Path)
    own.add_argument("--slm")
    given, rest = own.parse_known_args()
    options = arguments(__doc__, rest)
    machine = describe_machine(("onnxruntime", "asyncpg", "sqlalchemy", "numpy"))
    usual = QUICK if options.quick else WITH_MODEL if given.slm else Plan()
    plan = Plan(given.people or usual.people, given.sessions or usual.sessions, 0 if given.slm else usual.rounds)
    folder = Path(tempfile.mkdtemp(prefix="embed-bench-")).resolve()
    folder.chmod(0o711)  # a database server that is not root has to reach its files
    try:
        with new_progress(Console(stderr=True)) as progress:
            somebody = people(office(), plan.people, given.seed)
            outcome = uvloop.run(live(folder, somebody, plan, given.seed, _model(given.slm), progress))
            made = figures(outcome.arms["learning"], outcome.arms["off"], plan.people)
            made += style_figures(somebody, outcome.style)
            made += cost_figures(outcome) if given.slm else []
            if plan.rounds:
                made += uvloop.run(timed(folder, somebody, plan))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if given.plot:
        write_plot(given.plot, outcome.arms, plan.people, ceiling(office(), somebody, plan, given.seed))
    machine["load average at the end"] = f"{os.getloadavg()[0]:.2f}"
    machine["people, sessions, seed"] = f"{plan.people}, {plan.sessions}, {given.seed}"
    publish(options, "Simulated users", made, machine, _note(options.quick, given.slm, given.plot))


def _note(is_quick: bool, slm: str | None, plot: Path | None) -> str:
    said = f"Hypotheses by {'the built-in rules' if slm is None else Path(slm).name}; ± is a 95 % interval over people."
    said += " A quick run: nothing to compare." if is_quick else ""
    return said if plot is None else f"{said}\n\n![Learning and learning off, by session]({plot.name})"


def _model(named: str | None) -> Mapping[str, str]:
    """The environment of a service with that model."""
    if named is None:
        return {}
    file = {} if named == "builtin" else {"BUILTIN_MODEL": str(Path(named).resolve())}
    return {"SLM_IMPL": "builtin", "REQUEST_BUDGET_S": str(SLM_BUDGET_S), **file}


async def live(
    folder: Path, somebody: Sequence[Person], plan: Plan, seed: int, extra: Mapping[str, str], progress: Progress
) -> Outcome:
    """Both arms at the same time, each one task after the other."""
    losses = {name: held.get("loss", 0.0) for name, held in office().catalogue["intents"].items()}
    stakes = Stakes(QUESTION_COST, losses)
    with served(folder, extra) as (base_url, keys):
        doors = {arm: Door(base_url, keys[arm], is_learning=arm == "learning", timeout_s=300) for arm in ARMS}
        try:
            for door in doors.values():
                await door.put("/v1/settings", {"intents": office().catalogue, "question_cost": QUESTION_COST})
            runs = [_arm(name, door, somebody, plan, seed, stakes, progress) for name, door in doors.items()]
            done = await asyncio.gather(*runs)
            style = await leanings(doors["learning"], [person.name for person in somebody])
        finally:
            for door in doors.values():
                await door.aclose()
        return Outcome(dict(zip(doors, done, strict=True)), style, await _tokens(base_url))


async def _arm(
    name: str, door: Door, somebody: Sequence[Person], plan: Plan, seed: int, stakes: Stakes, progress: Progress
) -> list[Done]:
    bar = progress.add_task(name, total=len(somebody) * plan.sessions)
    done: list[Done] = []
    for session in range(1, plan.sessions + 1):
        for person in somebody:
            done.append(await perform(door, task(office(), person, session, seed), stakes))
            progress.advance(bar)
    return done


async def _tokens(base_url: str) -> dict[str, float]:
    """Tokens that a language model has read and written."""
    async with httpx.AsyncClient(base_url=base_url, timeout=60) as client:
        text = (await client.get("/metrics")).text
    found: dict[str, float] = {}
    for kind, count in re.findall(
        r'^embed_service_slm_tokens_total\{[^}]*kind="(\w+)"[^}]*\} (\S+)$', text, re.MULTILINE
    ):
        found[kind] = found.get(kind, 0.0) + float(count)
    return found


def cost_figures(outcome: Outcome) -> list[Figure]:
    """What a decision costs with a language model."""
    tasks = [done for records in outcome.arms.values() for done in records]
    proposed = np.array([done.seconds[0] for done in tasks]) * 1000
    made = [Figure(f"decision/p{rank}_ms", float(np.percentile(proposed, rank)), "ms") for rank in (50, 95)]
    made[0] = Figure(made[0].path, made[0].value, "ms", note="a hypothesize over HTTP, two at a time")
    return made + [
        Figure(f"tokens/{kind}", count / len(tasks), "", note="a task, judgements about facets included")
        for kind, count in sorted(outcome.tokens.items())
    ]


def ceiling(held: Office, somebody: Sequence[Person], plan: Plan, seed: int) -> list[float]:
    """By session, how often the first guess would be right if everybody's tastes were known."""
    return [
        float(np.mean([knowing(task(held, person, session, seed), 1) for person in somebody]))
        for session in range(1, plan.sessions + 1)
    ]


async def timed(folder: Path, somebody: Sequence[Person], plan: Plan) -> list[Figure]:
    """What deciding costs for people with a history."""
    kept = {name: field.get_default() for name, field in Settings.model_fields.items()}
    settings = Settings(_env_file=None, **kept | {"data_dir": folder / "data", "log_dir": folder / "logs"})  # pyright: ignore[reportCallIssue]
    configure_logs(settings.log_dir, "WARNING", to_stdout=False)
    inputs = [text for intent in office().intents for text in intent.inputs]
    asked = [(person.name, text) for person in somebody for text in inputs]
    async with open_services(settings) as services:
        return await decision_cost.measure(services.hypotheses, "learning", asked, plan.rounds)


if __name__ == "__main__":
    main()
