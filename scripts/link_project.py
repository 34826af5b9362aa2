"""Put this checkout and its `embed-service` command into the virtual environment that runs this script.

What `pip install -e .` does, without a build step and its downloads: a .pth file naming the checkout, and
a two-line command.

    .venv/bin/python scripts/link_project.py
"""

import stat
import sys
import sysconfig
from pathlib import Path

checkout = Path(__file__).resolve().parents[1]
Path(sysconfig.get_path("purelib"), "embed_service.pth").write_text(f"{checkout}\n")
command = Path(sysconfig.get_path("scripts"), "embed-service")
command.write_text(f"#!{sys.executable}\nimport sys\nfrom app.cli import main\nsys.exit(main())\n")
command.chmod(command.stat().st_mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)
