"""Export a checkpoint's wrapper from the command line."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from fine_tuning.embedding.errors import FineTuningError
from fine_tuning.llm2vec.export import export_wrapper


def main(argv: Sequence[str] | None = None) -> int:
    """0 exported, 2 after a line on what is to be mended."""
    parser = argparse.ArgumentParser(
        prog="export_llm2vec_wrapper",
        description="Write wrapper/config.json and wrapper/llm2vec_wrapper.py of a checkpoint's folder.",
        allow_abbrev=False,
    )
    parser.add_argument("--model-dir", type=Path, required=True, metavar="DIR", help="what the pipeline made")
    parser.add_argument("--base-model", metavar="NAME", help="where consumers find the base model, if not at its name")
    given = parser.parse_args(argv)
    try:
        exported = export_wrapper(given.model_dir, given.base_model)
    except (FineTuningError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    print(f"{given.model_dir / 'wrapper'}: base model {exported.base_model}, {exported.embedding.dimension} numbers")
    return 0
