"""Provision the models of the manifest's active profile.

    python -m scripts.provision_models --roles general coding --force --json

What the manifest may say is in docs/models.md; LLM_MODELS_PROFILE names the profile. Exit status: 0 every model is
there, 1 one is not, 2 wrong settings, manifest or flags.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from app.commands.models import main

if __name__ == "__main__":
    raise SystemExit(main())
