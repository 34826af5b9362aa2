"""Write the wrapper of a checkpoint that talks and embeds: its manifest and the module that loads it by that.

    python -m scripts.export_llm2vec_wrapper --model-dir local-models/NAME [--base-model NAME]

The pipeline does it at its end; this does it again after `wrapper_config.json` was changed, or with another name for
the base model. Needs no torch. Exit status: 0 written, 2 not possible, and one line says why.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from fine_tuning.llm2vec.export_command import main

if __name__ == "__main__":
    raise SystemExit(main())
