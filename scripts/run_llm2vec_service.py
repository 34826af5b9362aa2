"""Serve one checkpoint that talks and embeds over HTTP.

    venv-embed/bin/python scripts/run_llm2vec_service.py --model-dir local-models/mine --port 8081

The folder is one that the LLM2Vec pipeline has made; the weights are loaded by the first request. What can be set is in
docs/unified-runtime.md: SERVE_* and MODEL__*. SIGTERM stops it after it has answered what it accepted. Exit status 2:
it cannot start, and one line says why.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from serving.llm2vec.command import main

if __name__ == "__main__":
    raise SystemExit(main())
