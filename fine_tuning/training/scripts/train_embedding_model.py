"""Fine-tune an embedding model on pairs of texts that belong together.

    venv-embed/bin/python fine_tuning/training/scripts/train_embedding_model.py \
        --data data/finetune/pairs.tsv --output models/bge-small-finetuned \
        [--base-model all-MiniLM-L6-v2] [--epochs 1] [--batch-size 32] [--lr 2e-5] [--use-lora] [--matryoshka 384,192]
        [--mine-negatives 4] [--eval-data FILE] [--resume] [--overwrite]

Needs the environment of ./setup_embedding.sh (`make train-deps`). The folder holds weights, a graph that is served
without torch, metrics.json, loss.png, run_metadata.json. Exit status: 0 trained, 1 out of memory or disk, 2 not
possible as asked, 130 interrupted; what was interrupted or killed goes on with --resume.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from fine_tuning.embedding.command import main

if __name__ == "__main__":
    raise SystemExit(main())
