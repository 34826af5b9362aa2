"""Make one checkpoint that talks and embeds out of a chat model.

    venv-train/bin/python -m scripts.dolphin_llm2vec_pipeline --base-model DIR --output local-models/NAME
        [--data chats.jsonl] [--pairs pairs.jsonl] [--min-mrr 0.6] [--resume] [--json]

Needs the environment of ./setup_training.sh. EXPORT_GGUF=1 adds a file for llama.cpp. Exit status: 0 made, 1 out of
memory or disk, or below --min-mrr, 2 not possible as asked, 130 interrupted; --resume goes on. See docs/llm2vec.md.
"""

import importlib.util
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from fine_tuning.llm2vec.command import main

WRITER = Path(__file__).resolve().parents[1] / "app/services/training/scripts.py"


def write_script(rows: Path, output: Path, script: Path, base_model: str, settings: dict[str, Any]) -> Path:
    """See WriteScript: the service's own training script. Its writer is loaded by its file, because the package that
    it is in needs the service's libraries, which are not in the training environment."""
    name = "training_scripts"
    spec = importlib.util.spec_from_file_location(name, WRITER)
    assert spec is not None
    assert spec.loader is not None
    scripts: Any = importlib.util.module_from_spec(spec)
    sys.modules[name] = scripts
    spec.loader.exec_module(scripts)
    try:
        return scripts.generate_training_script(
            dataset_path=rows,
            model_name=base_model,
            output_model_path=output,
            options=scripts.TrainingOptions(**settings),
            script_path=script,
        )
    except scripts.InvalidInput as error:
        raise ValueError(str(error)) from None


if __name__ == "__main__":
    raise SystemExit(main(write_script))
