"""`embed-service train`: from samples to an adapter that answers users, and back."""

import asyncio
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import MofNCompleteColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn

from app.api.training_schemas import DeploymentOut, RouteOut
from app.commands import training_tables as tables
from app.commands.terminal import (
    ENDED_BY_HAND,
    Json,
    T,
    Tenant,
    opened,
    print_document,
    progress_bar,
    quiet_settings,
    tell,
)
from app.commands.training_options import with_training_options
from app.domain.datasets import DatasetOptions
from app.domain.runs import dataset_for
from app.services.keys import DEFAULT_TENANT
from app.services.training.dataset_files import read_summary
from app.services.training.datasets import Progress as Preparing
from app.services.training.run_files import datasets_folder
from app.services.training.runs import Run, code_version
from app.services.training.script_process import Step
from app.services.training.scripts import Method, TrainingOptions
from app.wiring_training import Training, build_collector, build_trainer, open_training

train = typer.Typer(no_args_is_help=True, help="Models trained on what users chose.")

Heldout = Annotated[float, typer.Option(help="Share of the users who are never trained on.")]
Later = Annotated[float, typer.Option(help="Share of the newest samples that is kept apart.")]
MaxTokens = Annotated[int, typer.Option(help="Longer rows are dropped.")]
Dataset = Annotated[str | None, typer.Option(help="hypotheses, preferences, facets or rerank; the method's own else.")]
Model = Annotated[str | None, typer.Option(help="A hub's name or a folder; VLLM_MODEL_NAME where absent.")]

DEFAULTS = DatasetOptions()


@train.command()
def stats(tenant: Tenant = DEFAULT_TENANT, as_json: Json = False) -> None:
    """Count the samples that were collected."""
    counts = build_collector(quiet_settings()).get_training_stats(tenant)
    print_document(counts, as_json, lambda: tables.of_counts(counts))


@train.command()
def datasets(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Write nothing, only count.")] = False,
    heldout_share: Heldout = DEFAULTS.heldout_share,
    later_share: Later = DEFAULTS.later_share,
    max_tokens: MaxTokens = DEFAULTS.max_tokens,
    max_per_user: Annotated[int | None, typer.Option(help="Only so many of a user's newest samples.")] = None,
    near_duplicate: Annotated[float, typer.Option(help="From this likeness on, samples count as one.")] = (
        DEFAULTS.near_duplicate
    ),
    tokenizer: Annotated[Path | None, typer.Option(help="A base model's tokenizer.json, to count as it does.")] = None,
    tenant: Tenant = DEFAULT_TENANT,
    as_json: Json = False,
) -> None:
    """Make datasets of the samples: cleaned, without doubles, split by user and by time."""
    settings = quiet_settings()
    options = DatasetOptions(heldout_share, later_share, max_tokens, max_per_user, near_duplicate)
    folder = datasets_folder(settings.training_dir, tenant)
    with progress_bar(TaskProgressColumn()) as bar:
        task = bar.add_task("reading", total=None)

        def show(progress: Preparing) -> None:
            bar.update(task, description=progress.stage, completed=progress.done, total=progress.total)

        made = asyncio.run(
            build_trainer(build_collector(settings)).prepare_training_dataset(
                folder, tenant, dry_run, show, options=options, tokenizer_file=tokenizer
            )
        )
    summary = made["summary"] if dry_run else read_summary(folder)
    document = {"folder": None if dry_run else str(folder), "summary": summary}
    print_document(document, as_json, lambda: tables.of_summary(summary or {}))


@train.command()
@with_training_options
def script(
    options: TrainingOptions,
    method: Method = "sft",
    dataset: Dataset = None,
    model: Model = None,
    output: Annotated[Path | None, typer.Option(help="The folder that the model goes to.")] = None,
    tenant: Tenant = DEFAULT_TENANT,
    as_json: Json = False,
) -> None:
    """Write a training script to read, change and run by hand; the registry knows nothing of what it makes."""
    settings = quiet_settings()
    path = build_trainer(build_collector(settings)).generate_training_script(
        datasets_folder(settings.training_dir, tenant) / f"{dataset_for(method, dataset)}.jsonl",
        model or settings.vllm_model_name,
        output or settings.local_models_dir / f"{method}-model",
        method=method,
        options=options,
        code_version=code_version(),
    )
    print_document({"script": str(path)}, as_json, lambda: f"{settings.train_venv}/bin/python {path}")


@train.command()
@with_training_options
def run(
    options: TrainingOptions,
    method: Method = "sft",
    dataset: Dataset = None,
    model: Model = None,
    reward_model: Annotated[str | None, typer.Option(help="For grpo: a trained reward run that rates answers.")] = None,
    resume: Annotated[str | None, typer.Option(help="A run that was broken off.")] = None,
    tenant: Tenant = DEFAULT_TENANT,
    as_json: Json = False,
) -> None:
    """Train an adapter on the prepared datasets, which are made where there are none. Ctrl-C ends it; it can be
    carried on."""

    async def work(training: Training) -> Run:
        run_id = resume
        if run_id is None:
            base_model = model or training.settings.vllm_model_name
            made = await training.runs.create(
                tenant, method, base_model=base_model, options=options, dataset=dataset, reward_run=reward_model
            )
            run_id = made.run_id
        tell(f"{run_id}: embed-service train run --resume {run_id} goes on where it is broken off")
        with progress_bar(MofNCompleteColumn(), TextColumn("{task.fields[loss]}"), TimeRemainingColumn()) as bar:
            task = bar.add_task("training", total=None, loss="")

            def show(step: Step) -> None:
                loss = "" if step.loss is None else f"loss {step.loss:.3f}"
                bar.update(task, completed=step.step, total=step.total, loss=loss or bar.tasks[0].fields["loss"])

            return await training.runs.train(tenant, run_id, show)

    signal.signal(signal.SIGTERM, _interrupt)
    try:
        done = _on_training(tenant, work)
    except KeyboardInterrupt:
        tell("stopped")
        raise typer.Exit(ENDED_BY_HAND) from None
    print_document(done.document(), as_json, lambda: tables.of_run(done))
    if done.status == "failed":
        said = [line for line in done.metadata["error"] if line]
        tell(f"error: {done.run_id} failed: {said[-1] if said else 'it said nothing'}; all: {done.folder}/training.log")
        raise typer.Exit(1)


def _interrupt(*_: object) -> None:
    """Have a request to end do what Ctrl-C does: asyncio cancels the work, and the work ends the script."""
    signal.raise_signal(signal.SIGINT)


@train.command("list")
def list_runs(tenant: Tenant = DEFAULT_TENANT, as_json: Json = False) -> None:
    """List a tenant's runs, newest first."""
    runs = _on_training(tenant, lambda training: training.runs.list(tenant))
    print_document([one.document() for one in runs], as_json, lambda: tables.of_runs(runs))


@train.command()
def show(run_id: str, tenant: Tenant = DEFAULT_TENANT, as_json: Json = False) -> None:
    """Show all about a run: data, settings, figures, judgement."""
    found = _on_training(tenant, lambda training: training.runs.get(tenant, run_id))
    print_document(found.document(), as_json, lambda: tables.of_run(found))


@train.command()
def judge(
    run_id: str,
    reward_model: Annotated[str | None, typer.Option(help="A trained reward run that rates the answers.")] = None,
    tenant: Tenant = DEFAULT_TENANT,
    as_json: Json = False,
) -> None:
    """Compare a run with what serves now on choices of users it never saw; the exit status is 1 for `refused`."""
    from app.wiring_judge import open_judge  # noqa: PLC0415 - only this command needs models

    with progress_bar(MofNCompleteColumn(), TimeRemainingColumn()) as bar:
        task = bar.add_task("loading", total=None)

        def show_stage(stage: str, done: int, total: int) -> None:
            bar.update(task, description=stage, completed=done, total=total)

        judged = opened(open_judge, tenant, lambda court: court.judge_run(tenant, run_id, reward_model, show_stage))
    print_document(judged.document(), as_json, lambda: tables.of_judgement(judged))
    if judged.status != "accepted":
        raise typer.Exit(1)


@train.command()
def promote(
    run_id: str,
    share: Annotated[float | None, typer.Option(help="Of the users, 1 for all; the policy's where absent.")] = None,
    tenant: Tenant = DEFAULT_TENANT,
    as_json: Json = False,
) -> None:
    """Have an accepted run's adapter answer a share of the users."""
    made = _on_training(tenant, lambda training: training.deployments.promote(tenant, run_id, share))
    print_document(DeploymentOut.of(made).model_dump(mode="json"), as_json, lambda: tables.of_deployments([made]))


@train.command()
def rollback(
    run_id: str,
    reason: Annotated[str, typer.Option(help="Kept in the history.")] = "by hand",
    tenant: Tenant = DEFAULT_TENANT,
    as_json: Json = False,
) -> None:
    """Have the model of before answer again."""
    made = _on_training(tenant, lambda training: training.deployments.rollback(tenant, run_id, reason))
    print_document(DeploymentOut.of(made).model_dump(mode="json"), as_json, lambda: tables.of_deployments([made]))


@train.command()
def status(tenant: Tenant = DEFAULT_TENANT, as_json: Json = False) -> None:
    """Show who is answered by what, and how often users choose what they are shown."""
    now = _on_training(tenant, lambda training: training.deployments.status(tenant))
    print_document(RouteOut.of(now).model_dump(mode="json"), as_json, lambda: tables.of_status(now))


def _on_training(tenant: str, work: Callable[[Training], Awaitable[T]]) -> T:
    """Run `work` on runs and deployments, without loading a model. Raises as `opened`."""
    return opened(open_training, tenant, work)
