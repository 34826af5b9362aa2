"""The trainer: datasets out of collected samples, and scripts that train on them."""

import asyncio
import hashlib
import os
import pkgutil
import secrets
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import structlog
from tokenizers import Tokenizer as FastTokenizer

from app.domain.datasets import DATASETS, SUMMARY_FILE, DatasetOptions, SplitKey
from app.domain.errors import InvalidInput
from app.ports import Tokenizer
from app.services.training.collector import TrainingDataCollector
from app.services.training.dataset_files import (
    ERASED,
    UNFINISHED,
    Target,
    document,
    erase,
    locked,
    read_summary,
    settle,
    write_durably,
)
from app.services.training.datasets import OnProgress, Preparation, Progress, Spread
from app.services.training.run_files import SCRIPT_NAME
from app.services.training.scripts import Method, TrainingOptions, generate_training_script

_log: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger(__name__)

KEY_FILE = "split.key"
KEY_BYTES = 32
DEFAULT_OPTIONS = DatasetOptions()

_SERVICE_TOKENIZER = "app.clients.tokenizer:SentencePieceTokenizer"
"""Named, not imported: what runs without the wiring gets the same tokenizer that the wiring hands out."""

CACHED_LINES = 1 << 15
"""Lines of prompts whose length is remembered."""


class ModelTrainer:
    """Makes training material out of collected samples."""

    def __init__(self, collector: TrainingDataCollector, tokenizer: Tokenizer | None = None) -> None:
        """Lengths are counted with `tokenizer`, the service's own where it is None."""
        self.collector = collector
        self._tokenizer = tokenizer

    def generate_training_script(
        self,
        dataset_path: str | Path,
        model_name: str,
        output_model_path: str | Path,
        *,
        method: Method = "sft",
        options: TrainingOptions | None = None,
        script_path: str | Path | None = None,
        code_version: str | None = None,
    ) -> Path:
        """Write the script that trains `model_name` on a prepared dataset, `train_model.py` beside the samples unless
        `script_path` says otherwise; its path. Raises InvalidInput for what cannot be trained."""
        return generate_training_script(
            dataset_path=dataset_path,
            model_name=model_name,
            output_model_path=output_model_path,
            method=method,
            options=options,
            script_path=script_path or self.collector.directory / SCRIPT_NAME,
            code_version=code_version,
        )

    async def prepare_training_dataset(
        self,
        output_dir: str | Path = "./data/training/datasets",
        tenant_id: str | None = None,
        is_dry_run: bool = False,
        on_progress: OnProgress | None = None,
        *,
        options: DatasetOptions = DEFAULT_OPTIONS,
        tokenizer_file: str | Path | None = None,
        spread: Spread | None = None,
    ) -> dict[str, Any]:
        """The training files' paths by dataset (`hypotheses`, `preferences`, `facets`, `rerank`) and the `summary`'s.

        Of one tenant or of all. `tokenizer_file` is a base model's `tokenizer.json`, to count lengths as it does. A
        dry run writes nothing and returns `{"summary": the document}`. `on_progress` is called on a worker thread.
        `spread` studies the samples elsewhere; what comes out is the same.

        The samples are those there are at the start. The files are written aside and take the old ones' places
        when all are complete: after a kill the old ones stand, or the next call finishes the change. The same
        samples, key and options give the same bytes. Cancelling ends it, soon. Memory: below 500 MB for a million
        samples. One preparation runs at a time; another waits. Raises InvalidInput for options or a tokenizer
        file that mean nothing, OSError when the disk refuses.
        """
        stop = threading.Event()

        def report(progress: Progress) -> None:
            if stop.is_set():
                raise _Stopped
            if on_progress is not None:
                on_progress(progress)

        folder = None if is_dry_run else Path(output_dir)
        try:
            summary = await asyncio.to_thread(self._prepare, folder, tenant_id, options, tokenizer_file, report, spread)
        except asyncio.CancelledError:
            stop.set()
            raise
        rows = sum(each["rows"] for each in summary["files"].values())
        _log.info("training_datasets_prepared", rows=rows, is_dry_run=is_dry_run, seconds=summary["seconds"])
        if is_dry_run:
            return {"summary": summary}
        paths = {name: f"{output_dir}/{dataset}.jsonl" for name, dataset in DATASETS.items()}
        return {**paths, "summary": f"{output_dir}/{SUMMARY_FILE}"}

    def erase_user(
        self, tenant_id: str, user_id: str, output_dir: str | Path = "./data/training/datasets"
    ) -> dict[str, int]:
        """Remove every row of a user from the datasets; the rows removed by file. Erase the samples first: what is
        being prepared at this moment leaves the user out, too.

        Each file is replaced as a whole, and durable when this returns; broken off halfway, it can be called again.
        Raises InvalidInput where the datasets were made with another key, or with one that is lost: then nobody can
        say which rows are the user's, and the datasets have to be deleted.
        """
        folder = Path(output_dir)
        if not folder.is_dir():
            return {}
        with locked(folder / ".lock"):
            settle(folder)
            summary = read_summary(folder)
            key = self.split_key()
            unfinished = folder / UNFINISHED
            if key is not None and unfinished.is_dir():
                with (unfinished / ERASED).open("a") as out:
                    out.write(f"{key.user(tenant_id, user_id)}\n")
            if summary is None:
                return {}
            if key is None or summary["key_id"] != key.key_id:
                raise InvalidInput("These datasets were made with another split.key: delete them and prepare new ones.")
            before = document(summary)
            removed = erase(folder, frozenset({key.user(tenant_id, user_id)}), summary)
            if document(summary) != before:
                write_durably(folder / SUMMARY_FILE, document(summary))
            return removed

    def split_key(self) -> SplitKey | None:
        """The key behind users' names in datasets; None before the first preparation, or where it was lost."""
        path = self.collector.directory / KEY_FILE
        return SplitKey(path.read_bytes()) if path.exists() else None

    def make_split_key(self) -> SplitKey:
        """The key behind users' names, made where there is none. Raises InvalidInput for a damaged one."""
        return self._key(is_kept=True)

    def counter(self, file: str | Path | None) -> tuple[Callable[[str], int], str]:
        """What counts tokens, a `tokenizer.json` or the service's own, and its name for summaries. Raises
        InvalidInput for a file that is none."""
        if file is None:
            tokenizer = self._tokenizer or cast(Tokenizer, pkgutil.resolve_name(_SERVICE_TOKENIZER)())
            return tokenizer.count, type(tokenizer).__name__
        try:
            content = Path(file).read_bytes()
            fast = FastTokenizer.from_str(content.decode())
        except Exception as error:  # noqa: BLE001 - the library raises Exception itself
            raise InvalidInput(f"{file} is no tokenizer.json: {error}", field="tokenizer_file") from None
        fast.no_truncation()
        fast.no_padding()
        return (
            lambda text: len(fast.encode(text, add_special_tokens=False).ids),
            f"sha256:{hashlib.sha256(content).hexdigest()}",
        )

    def _prepare(
        self,
        folder: Path | None,
        tenant_id: str | None,
        options: DatasetOptions,
        tokenizer_file: str | Path | None,
        report: OnProgress,
        spread: Spread | None = None,
    ) -> dict[str, Any]:
        """The whole of it, on a worker thread; without a folder the summary only."""
        started = time.monotonic()
        count, name = self.counter(tokenizer_file)
        with Target(folder) as target:
            key = self._key(is_kept=folder is not None)
            count = lru_cache(maxsize=CACHED_LINES)(count)
            summary = Preparation(self.collector, key, target, tenant_id, options, count, spread).run(report)
            summary |= {"tokenizer": name, "seconds": round(time.monotonic() - started, 3)}
            target.publish(summary)
        return summary

    def _key(self, is_kept: bool) -> SplitKey:
        """The key of these samples, made once. A dry run without one makes one up and forgets it."""
        path = self.collector.directory / KEY_FILE
        if not path.exists():
            if not is_kept:
                return SplitKey(secrets.token_bytes(KEY_BYTES))
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            new = path.with_name(f".{KEY_FILE}.{os.getpid()}.{secrets.token_hex(4)}")
            write_durably(new, secrets.token_bytes(KEY_BYTES))
            with suppress(FileExistsError):  # another process was quicker
                os.link(new, path)
            new.unlink()
        secret = path.read_bytes()
        if len(secret) != KEY_BYTES:
            raise InvalidInput(f"{path} is damaged: it has to hold {KEY_BYTES} bytes.", field=KEY_FILE)
        return SplitKey(secret)


class _Stopped(Exception):
    """The caller no longer waits."""
