"""Serve a chat model and an embedding model over HTTP, in one process.

    MODELS_DIR=local-models PORT=8000 python scripts/serve_slm.py

The models come with `scripts/download.sh local-models`. What can be set is in docs/slm-server.md: HOST, PORT,
MODELS_DIR, EMBEDDING__* and CHAT__*. SIGTERM stops it after it has answered what it accepted. Exit status 2: it
cannot start, and one line says why.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from serving.slm.command import main

if __name__ == "__main__":
    raise SystemExit(main())
