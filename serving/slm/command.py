"""Start the SLM server: the settings, the port, both models, then requests."""

import sys

from serving.command import listening, serve
from serving.errors import ModelRefused
from serving.logs import configure_logs
from serving.settings import SettingsError
from serving.slm.main import create_slm_app
from serving.slm.settings import load_slm_settings


def main() -> int:
    """Serve until told to stop; 2, after one line on stderr, when that is not possible."""
    configure_logs()
    try:
        settings = load_slm_settings()
        with listening(settings.host, settings.port, "HOST") as listener:
            serve(create_slm_app(settings), listener)
    except (SettingsError, ModelRefused, OSError) as error:
        print(f"cannot start: {error}", file=sys.stderr)
        return 2
    return 0
