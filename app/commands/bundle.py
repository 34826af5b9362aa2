"""`python -m scripts.build_llm_bundle`: from a file of conversations to a checkpoint that is in the registry."""

import argparse
import asyncio
import json
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import yaml
from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from app.commands.failures import told
from app.commands.terminal import ENDED_BY_HAND, opened, print_document, progress_bar, quiet_settings, tell
from app.domain.bundles import KNOBS, BundlePlan, merged
from app.domain.datasets import SUMMARY_FILE
from app.domain.errors import DomainError, InvalidInput, NotFound
from app.ports import SystemClock
from app.services.keys import DEFAULT_TENANT
from app.services.training.bundles import options_of, plan_of
from app.services.training.registry import checkpoint_of, output_of
from app.services.training.runs import Run
from app.services.training.script_process import Step
from app.settings import Settings
from app.wiring_training import Training, build_bundle_data, build_bundles, build_registry, open_training

FAILED, UNUSABLE = 1, 2
BASE_MODEL_AGAIN = "none"
"""What `--make-current` is given to have the base model answer again."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Build; the exit status: 0 built, 1 training or checkpoint failed, 2 not possible as asked, 130 stopped."""
    flags = make_parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, _interrupt)
    settings = quiet_settings()
    try:
        if flags.make_current is not None:
            return _make_current(settings, flags)
        if flags.resume is not None:
            return _build(settings, flags, None)
        plan = merged(read_config(flags.config), _given(flags))
        return _check(settings, flags, plan) if flags.dry_run else _build(settings, flags, plan)
    except (InvalidInput, NotFound) as error:
        tell(f"error: {error}")
        return UNUSABLE
    except (DomainError, OSError) as error:
        tell(f"error: {told(error)}")
        return FAILED
    except KeyboardInterrupt:
        tell("stopped")
        return ENDED_BY_HAND


def make_parser() -> argparse.ArgumentParser:
    """The flags: one for each field of BundlePlan, and what is done with it."""
    parser = argparse.ArgumentParser(
        prog="python -m scripts.build_llm_bundle",
        description="Check a file of conversations, train an adapter on it, make the checkpoint that talks and embeds, "
        "and enter it in the adapter registry. EXPORT_GGUF=1 in the environment adds a GGUF file.",
        allow_abbrev=False,
    )
    data = parser.add_argument_group("data").add_argument
    data("--dataset-path", type=Path, metavar="FILE", help="conversations, a line of JSON each")
    data("--dataset-id", metavar="ID", help="a data set of the Hugging Face hub, ORGANISATION/NAME[:SPLIT]; train else")
    data("--eval-dataset-path", type=Path, metavar="FILE", help="to evaluate on; NAME.heldout.jsonl beside it else")
    data("--eval-dataset-id", metavar="ID", help="the same of the hub; the split `test` where none is named")
    data("--near-duplicate", type=float, metavar="X", help="from this likeness on, rows count as one; 0.8")
    made = parser.add_argument_group("what is made").add_argument
    made("--base-model", metavar="MODEL", help="a folder or a hub's name; VLLM_MODEL_NAME where absent")
    made("--run-name", metavar="LABEL", help="for people and schedulers; goes into every document of the bundle")
    made("--output", type=Path, metavar="DIR", help="the checkpoint's folder; LOCAL_MODELS_DIR/RUN/checkpoint else")
    made("--registry-path", type=Path, metavar="FILE", help="the adapter registry; LLM_ADAPTER_REGISTRY_PATH else")
    made("--tenant", metavar="TENANT", help="whose run it is; default")
    knobs = parser.add_argument_group("training (the method's own where absent)").add_argument
    for name in KNOBS:
        is_whole = name not in {"learning_rate", "epochs"}
        knobs(f"--{name.replace('_', '-')}", type=int if is_whole else float, metavar="N" if is_whole else "X")
    flag = parser.add_argument
    flag("--config", type=Path, metavar="FILE", help="JSON or YAML with these fields; flags win")
    flag("--dry-run", action="store_true", help="only check the data; nothing is written")
    flag("--resume", metavar="RUN", help="go on with a build that was broken off")
    flag("--make-current", metavar="RUN", help="have a built one answer whoever names none; `none`: the base model")
    flag("--json", action="store_true", help="print one JSON document")
    return parser


def read_config(file: Path | None) -> Mapping[str, object]:
    """The fields of a configuration file, YAML or JSON (which is YAML). Raises InvalidInput, one line."""
    if file is None:
        return {}
    try:
        held: object = yaml.safe_load(file.read_text("utf8"))
    except OSError as error:
        raise InvalidInput(f"{file} cannot be read: {error.strerror}.", "config") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        where = getattr(error, "problem_mark", None)
        line = f", line {where.line + 1}" if where is not None else ""
        raise InvalidInput(f"{file} is neither YAML nor JSON{line}.", "config") from None
    if held is None:
        return {}
    if not isinstance(held, dict):
        raise InvalidInput(f"{file} has to hold fields with values.", "config")
    return cast("dict[str, object]", held)


def _given(flags: argparse.Namespace) -> dict[str, object]:
    return {name: getattr(flags, name) for name in BundlePlan.model_fields}


def _check(settings: Settings, flags: argparse.Namespace, plan: BundlePlan) -> int:
    """The data only."""
    with progress_bar(MofNCompleteColumn()) as bar:
        task = bar.add_task("checking the data", total=None)
        summary = asyncio.run(
            build_bundle_data(settings).check(
                plan,
                plan.base_model or settings.vllm_model_name,
                options_of(plan).max_length,
                None,
                lambda done, total: bar.update(task, completed=done, total=total),
            )
        )
    print_document(summary, flags.json, lambda: table_of(summary))
    return 0


def _build(settings: Settings, flags: argparse.Namespace, plan: BundlePlan | None) -> int:
    """A whole build, or without a plan the rest of one."""

    async def work(training: Training) -> tuple[Run, Path]:
        tenant = plan.tenant if plan is not None else flags.tenant or DEFAULT_TENANT
        if plan is not None:
            bundles = build_bundles(settings, training.runs, plan.registry_path)
            run = await bundles.create(plan, plan.base_model or settings.vllm_model_name)
        else:
            run = await training.runs.get(tenant, flags.resume)
            bundles = build_bundles(settings, training.runs, flags.registry_path or plan_of(run).registry_path)
        tell(f"{run.run_id}: python -m scripts.build_llm_bundle --resume {run.run_id} goes on where it is broken off")
        columns = MofNCompleteColumn(), TextColumn("{task.fields[loss]}"), TimeRemainingColumn()
        with progress_bar(*columns) as bar:
            seen = _Seen(bar)
            built = await bundles.build(tenant, run.run_id, seen.rows, seen.step, seen.stage)
        return built, bundles.registry.path

    run, registry = opened(open_training, None, work)
    if run.status == "failed":
        said = [line for line in run.metadata["error"] if line]
        tell(f"error: {run.run_id} failed: {said[-1] if said else 'it said nothing'}; all: {run.folder}/training.log")
        return FAILED
    summary: dict[str, Any] = json.loads((run.folder / SUMMARY_FILE).read_bytes())
    document = {"run": run.document(), "checkpoint": str(checkpoint_of(run)), "registry": str(registry)}
    print_document({**document, "summary": summary}, flags.json, lambda: table_of(summary))
    tell(f"{output_of(run)} is ready. Try it: python scripts/run_llm2vec_service.py --model-dir {output_of(run)}")
    return 0


def _make_current(settings: Settings, flags: argparse.Namespace) -> int:
    """Have an adapter of the registry answer whoever names none."""
    registry = build_registry(settings, flags.registry_path)
    run_id = None if flags.make_current == BASE_MODEL_AGAIN else flags.make_current
    made = asyncio.run(registry.change(lambda held: held.pointing_at(run_id), SystemClock().now()))
    document = made.model_dump(mode="json")
    print_document(document, flags.json, lambda: f"{registry.path}: {made.current or 'the base model'} is current")
    return 0


class _Seen:
    """The bar, and what it shows of a build."""

    def __init__(self, bar: Progress) -> None:
        self._bar = bar
        self._task = bar.add_task("", total=None, loss="")

    def stage(self, name: str) -> None:
        tell(name)
        self._bar.reset(self._task, description=name, total=None, loss="")

    def rows(self, done: int, total: int) -> None:
        self._bar.update(self._task, completed=done, total=total)

    def step(self, step: Step) -> None:
        self._bar.update(self._task, completed=step.step, total=step.total)
        if step.loss is not None:
            self._bar.update(self._task, loss=f"loss {step.loss:.3f}")


def table_of(summary: Mapping[str, Any]) -> Table:
    """What came of the rows, for people."""
    table = Table("", *summary["datasets"], title=f"rows, tokens by {summary['tokenizer'][:20]}")
    lines: dict[str, list[str]] = {}
    files = summary["files"].values()
    for part, held in zip(summary["datasets"].values(), files, strict=True):
        values = {
            "in": part["samples_in"] + part["damaged_lines"]["count"],
            "kept": part["samples_out"],
            "no JSON": part["damaged_lines"]["count"],
            "dropped": _pairs(part["dropped"]),
            "duplicates": f"{part['duplicate_rate']:.1%}",
            "hidden": _pairs(part["redacted"]),
            "prompt tokens, half / most": _half(part["prompt"]["tokens"]),
            "completion tokens, half / most": _half(part["completion"]["tokens"]),
            "labels": f"{part['label_balance']['labels']}, largest {part['label_balance']['largest_share']:.0%}",
            "users": held["users"],
        }
        for name, value in values.items():
            lines.setdefault(name, []).append(str(value))
    for name, cells in lines.items():
        table.add_row(name, *cells)
    return table


def _pairs(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items()) or "0"


def _half(tokens: Mapping[str, int]) -> str:
    return f"{tokens['p50']} / {tokens['max']}" if tokens else "none"


def _interrupt(*_: object) -> None:
    """Have a request to end do what Ctrl-C does: asyncio cancels the work, and the work ends what it started."""
    signal.raise_signal(signal.SIGINT)
