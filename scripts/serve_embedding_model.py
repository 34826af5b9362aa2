"""Serve an embedding model, or a cross-encoder, over HTTP.

    python scripts/serve_embedding_model.py --model DIR --port 8000 --normalize
        [--host 127.0.0.1] [--device auto] [--backend auto] [--concurrency 64] [--batch-size 32] [--threads N]

Every flag has a SERVE_* variable, e.g. SERVE_MODEL; flags win. SIGTERM stops it after it has answered what it
accepted. Exit status 2: it cannot start, and one line says why.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from serving.command import main

if __name__ == "__main__":
    raise SystemExit(main())
