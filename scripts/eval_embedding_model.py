"""Measure how well an embedding model finds what belongs to a text: MRR, Hit@k, nDCG@10, with 95 % intervals.

    python scripts/eval_embedding_model.py --model models/my-model --data data/finetune/heldout.jsonl
        [--baseline models/base] [--k 5] [--fail-under 0.6] [--json FILE]

A model is a folder, read as the server reads it, or the URL of a server (http://localhost:8000/embed, or an OpenAI
server's .../v1/embeddings). Data is a file of pairs (.tsv, .csv, .jsonl with negatives) or a folder in BEIR's layout.
Exit status: 0 measured, 1 the MRR is below --fail-under, 2 not possible as asked.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from fine_tuning.embedding.evaluate_command import main

if __name__ == "__main__":
    raise SystemExit(main())
