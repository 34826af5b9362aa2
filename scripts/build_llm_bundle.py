"""Build a checkpoint of your own out of a file of conversations: checked, trained, exported, entered in the registry.

    .venv/bin/python -m scripts.build_llm_bundle --dataset-path chats.jsonl --base-model local-models/NAME
        [--eval-dataset-path FILE] [--run-name LABEL] [--config FILE] [--dry-run] [--resume RUN] [--json]

It runs with the service's Python (`make install-training`) and trains with that of ./setup_training.sh. All of it is in
docs/bundles.md. Exit status: 0 built, 1 the training or the checkpoint failed, 2 not possible as asked, 130 stopped.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from app.commands.bundle import main

if __name__ == "__main__":
    raise SystemExit(main())
