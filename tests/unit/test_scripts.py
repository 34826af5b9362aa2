"""setup_vllm.sh, setup_training.sh and start_vllm.sh say what is wrong and what to do, before and after vLLM runs.

vLLM is played by a shell script in the place of the environment's Python; tests/vllm runs the real one.
"""

import fcntl
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPTS = ["setup_vllm.sh", "setup_training.sh", "setup_embedding.sh", "start_vllm.sh"]
PARTS = [
    "scripts/environment.sh",
    *(f"requirements/{name}.txt" for name in ("vllm-cpu", "training", "training-unsloth", "embedding-training")),
]
OUR_NAMES = re.compile(r"VLLM_|TRAIN_|EMBED_|SLM_|HF_|LOG_DIR$|DO_NOT_TRACK$|CUDA_VISIBLE_DEVICES$")


class Checkout:
    """A copy of the scripts in a folder of its own, with what they would find around them."""

    def __init__(self, folder: Path) -> None:
        """`folder` must be empty. There is no vLLM in it yet, and no GPU."""
        self.folder = folder
        self.bin = folder / "bin"
        for name in (*SCRIPTS, *PARTS):
            (folder / name).parent.mkdir(exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
        self.command("nvidia-smi", "exit 1")

    def command(self, name: str, body: str) -> None:
        """Put a command before all others."""
        self.bin.mkdir(exist_ok=True)
        write_script(self.bin / name, body)

    def install(self, body: str = "exit 1", device: str = "cpu") -> None:
        """An environment that ./setup_vllm.sh has finished, whose Python does `body`."""
        if device == "gpu":
            self.command("nvidia-smi", "exit 0")
        (self.folder / "venv-vllm/bin").mkdir(parents=True, exist_ok=True)
        (self.folder / "venv-vllm/.setup-vllm-done").write_text(f"device={device}\n")
        write_script(self.folder / "venv-vllm/bin/python", body)

    def model(self, name: str, config: str = '{"max_position_embeddings": 2048}') -> None:
        """A model's folder."""
        (self.folder / name).mkdir(parents=True)
        (self.folder / name / "config.json").write_text(config)

    def environment(self, settings: dict[str, str]) -> dict[str, str]:
        """Nothing of ours is inherited."""
        kept = {name: value for name, value in os.environ.items() if not OUR_NAMES.match(name)}
        path = f"{self.bin}:{os.environ['PATH']}"
        return {**kept, "PATH": path, "HF_HOME": str(self.folder / "hub"), **settings}

    def run(self, script: str, **settings: str) -> tuple[int, str]:
        """The exit status, and everything printed."""
        done = subprocess.run(
            [f"./{script}"],
            cwd=self.folder,
            env=self.environment(settings),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
            check=False,
        )
        return done.returncode, done.stdout


def write_script(path: Path, body: str) -> None:
    path.write_text(f"#!/bin/bash\n{body}\n")
    path.chmod(0o755)


def printing(text: str) -> str:
    """The body of a program that prints `text` and fails."""
    return f"cat <<'TEXT'\n{text}\nTEXT\nexit 1"


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


@pytest.fixture
def taken_port() -> Iterator[int]:
    """A port that this process listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


# ---- all


@pytest.mark.parametrize("script", SCRIPTS)
def test_shellcheck_finds_nothing(script: str) -> None:
    shellcheck = Path(sys.executable).with_name("shellcheck")
    done = subprocess.run([shellcheck, "-x", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout + done.stderr == ""
    assert done.returncode == 0


@pytest.mark.parametrize("script", SCRIPTS)
def test_is_executable_and_parses(script: str) -> None:
    assert os.access(ROOT / script, os.X_OK)
    subprocess.run(["bash", "-n", ROOT / script], check=True)


def test_every_setting_and_exit_status_is_on_the_guide_page() -> None:
    text = (ROOT / "start_vllm.sh").read_text()
    header = text.split("set -euo", 1)[0]
    guide = (ROOT / "docs/vllm.md").read_text("utf8")
    settings = set(re.findall(r"setting ([A-Z_]+)", text))
    assert settings <= set(re.findall(r"[A-Z_]{5,}", header))
    assert settings <= set(re.findall(r"[A-Z_]{5,}", guide))
    used = {int(status) for status in re.findall(r"(?:fail|ended) (\d)", text)}
    assert used <= {int(status) for status in re.findall(r"\b(\d) [a-z]", header.split("Exit statuses:")[1])}
    assert used <= {int(status) for status in re.findall(r"^\| (\d) \|", guide, re.MULTILINE)}


# ---- setup_vllm.sh and setup_training.sh


@dataclass(frozen=True)
class Setup:
    """One of the two, and what it is about."""

    script: str
    prefix: str
    folder: str
    stamp: str
    pythons: str
    gigabytes: tuple[int, int]
    lock: str


SETUPS = [
    Setup("setup_vllm.sh", "VLLM", "venv-vllm", ".setup-vllm", "3.11", (6, 20), "vllm-cpu"),
    Setup("setup_training.sh", "TRAIN", "venv-train", ".setup-training", "3.11, 3.12 or 3.13", (4, 16), "training"),
    Setup(
        "setup_embedding.sh",
        "EMBED",
        "venv-embed",
        ".setup-embedding",
        "3.11, 3.12 or 3.13",
        (4, 12),
        "embedding-training",
    ),
]
both = pytest.mark.parametrize("setup", SETUPS, ids=lambda setup: setup.script)


@both
def test_setup_refuses_an_unknown_device(checkout: Checkout, setup: Setup) -> None:
    status, output = checkout.run(setup.script, **{f"{setup.prefix}_DEVICE": "tpu"})
    assert status == 2
    assert f"{setup.prefix}_DEVICE=tpu is not usable" in output


def test_setup_refuses_half_an_unsloth(checkout: Checkout) -> None:
    status, output = checkout.run("setup_training.sh", TRAIN_UNSLOTH="maybe")
    assert status == 2
    assert "TRAIN_UNSLOTH=maybe is not usable: 1, 0, or unset" in output


@both
def test_setup_without_a_suitable_python(checkout: Checkout, setup: Setup) -> None:
    for name in ("python3", "python3.11", "python3.12", "python3.13", "uv"):
        checkout.command(name, "exit 1")
    status, output = checkout.run(setup.script)
    assert status == 3
    assert f"Python {setup.pythons} with venv is needed and was not found" in output
    assert f"{setup.prefix}_PYTHON=/path/to/python3.11 ./{setup.script}" in output
    assert not (checkout.folder / setup.folder).exists()


@both
def test_setup_without_enough_disk(checkout: Checkout, setup: Setup) -> None:
    checkout.command("df", "printf 'Filesystem\\n/dev/x 9 9 2000000 9%% /\\n'")
    status, output = checkout.run(setup.script)
    assert status == 5
    assert f"{setup.gigabytes[0]} GB of free disk are needed" in output
    assert "there are 2 GB" in output
    status, output = checkout.run(setup.script, **{f"{setup.prefix}_DEVICE": "gpu"})
    assert status == 5
    assert f"{setup.gigabytes[1]} GB" in output


@both
@pytest.mark.parametrize("name", ["thesis.txt", "pyvenv.cfg"])
def test_setup_leaves_somebody_elses_folder_alone(checkout: Checkout, setup: Setup, name: str) -> None:
    (checkout.folder / "precious").mkdir()
    (checkout.folder / "precious" / name).write_text("five years")
    status, output = checkout.run(setup.script, **{f"{setup.prefix}_VENV": "precious"})
    assert status == 2
    assert f"{setup.prefix}_VENV=precious is not usable" in output
    assert (checkout.folder / "precious" / name).read_text() == "five years"


@both
def test_setup_makes_anew_what_a_killed_run_left_and_says_which_step_failed(checkout: Checkout, setup: Setup) -> None:
    """The stand-in for Python makes an environment whose pip fails."""
    pip_fails = '[[ $* == *"-m pip"* ]] && { echo "no network"; exit 1; }; exit 0'
    (checkout.folder / "pip_fails").write_text(f"#!/bin/bash\n{pip_fails}\n")
    checkout.command("python3.11", '[[ $1 == -m ]] && mkdir -p "$3/bin" && install pip_fails "$3/bin/python"; exit 0')
    venv = checkout.folder / setup.folder
    venv.mkdir()
    (venv / f"{setup.stamp}-begun").touch()
    (venv / "half").touch()
    status, output = checkout.run(setup.script)
    assert status == 1
    assert f"{setup.folder} is incomplete or for another device; making it anew" in output
    assert "no network" in output
    assert f"The installation failed in this step: packages of requirements/{setup.lock}.txt" in output
    assert not (venv / "half").exists()
    assert not (venv / f"{setup.stamp}-done").exists()
    status, output = checkout.run("start_vllm.sh")
    assert status == 3


@both
def test_setup_waits_for_another_and_then_says_so(checkout: Checkout, setup: Setup) -> None:
    with (checkout.folder / f"requirements/{setup.lock}.txt").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        status, output = checkout.run(setup.script)
    assert status == 9
    assert f"Another ./{setup.script} is at work in this checkout" in output


# ---- start_vllm.sh, before vLLM runs


def test_start_without_vllm(checkout: Checkout) -> None:
    status, output = checkout.run("start_vllm.sh")
    assert status == 3
    assert "Run ./setup_vllm.sh first" in output


def test_start_of_a_gpu_installation_without_gpu(checkout: Checkout) -> None:
    checkout.install(device="gpu")
    checkout.command("nvidia-smi", "exit 9")
    status, output = checkout.run("start_vllm.sh")
    assert status == 3
    assert "VLLM_DEVICE=cpu ./setup_vllm.sh" in output


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("VLLM_PORT", "eighty"),
        ("VLLM_PORT", "65536"),
        ("VLLM_GPU_MEMORY", "1.5"),
        ("VLLM_GPU_MEMORY", "90"),
        ("VLLM_TASK", "chat"),
        ("VLLM_MAX_LORA_RANK", "17"),
        ("VLLM_CPU_KVCACHE_GB", "0.5"),
        ("VLLM_MAX_MODEL_LEN", "4k"),
        ("VLLM_EXTRA_ARGS", "--a 'b"),
    ],
)
def test_start_names_a_wrong_setting(checkout: Checkout, name: str, value: str) -> None:
    checkout.install()
    checkout.model("local-models/tiny")
    status, output = checkout.run("start_vllm.sh", **{"VLLM_MODEL_NAME": "local-models/tiny", name: value})
    assert status == 2
    assert f"{name}={value} is not usable" in output


def test_start_with_a_folder_that_is_missing_or_no_model(checkout: Checkout) -> None:
    checkout.install()
    (checkout.folder / "local-models/adapter").mkdir(parents=True)
    for name in ("./local-models/mine", "/nowhere/model", "local-models/mine"):
        status, output = checkout.run("start_vllm.sh", VLLM_MODEL_NAME=name)
        assert status == 2
        assert f"VLLM_MODEL_NAME={name} is a folder, and there is none at " in output
    status, output = checkout.run("start_vllm.sh", VLLM_MODEL_NAME="./local-models/adapter")
    assert status == 2
    assert "has no config.json" in output


def test_start_on_a_taken_port_says_who_has_it(checkout: Checkout, taken_port: int) -> None:
    checkout.install()
    checkout.model("local-models/tiny")
    status, output = checkout.run("start_vllm.sh", VLLM_MODEL_NAME="local-models/tiny", VLLM_PORT=str(taken_port))
    assert status == 4
    assert f"Port {taken_port} on 127.0.0.1 is taken" in output
    assert f"VLLM_PORT={taken_port + 1} ./start_vllm.sh" in output
    if shutil.which("ss"):
        assert f"process {os.getpid()}" in output


def test_start_without_disk_for_the_download(checkout: Checkout) -> None:
    checkout.install()
    checkout.command("df", "printf 'Filesystem\\n/dev/x 9 9 3000000 9%% /\\n'")
    status, output = checkout.run("start_vllm.sh")
    assert status == 5
    assert "unsloth/Qwen2.5-3B-Instruct is not on this machine yet" in output
    assert "about 6 GB" in output
    assert "3 GB free" in output


# ---- start_vllm.sh, what vLLM is given


TELL = 'printf "%s\\n" "$@" > told.args; env > told.env; exit 1'


def told(checkout: Checkout) -> tuple[list[str], dict[str, str]]:
    """The options and the environment that vLLM was started with."""
    lines = (line.partition("=") for line in (checkout.folder / "told.env").read_text().splitlines())
    return (checkout.folder / "told.args").read_text().splitlines(), {name: value for name, _, value in lines}


def option(args: list[str], name: str) -> str:
    return args[args.index(name) + 1]


def test_env_file_is_read_and_never_executed(checkout: Checkout, unused_tcp_port: int) -> None:
    checkout.install(TELL)
    checkout.model("models of mine")
    lines = [
        "FOO=$(touch executed)",
        "HF_TOKEN=`touch executed`",
        "VLLM_CPU_KVCACHE_GB=a[$(touch executed)]",
        "touch executed",
        "# VLLM_PORT=1",
        f"VLLM_PORT={unused_tcp_port}   # a comment",
        "export VLLM_MODEL_NAME='./models of mine'\r",
        'SLM_API_KEY = "a # key"  # a comment',
        "VLLM_MAX_LORAS=7",
        "VLLM_MAX_LORA_RANK=",
        "VLLM_MAX_LORA_RANKS=8",
        "VLLM_CPU_KVCACHE_GB=1",
    ]
    (checkout.folder / ".env").write_text("\n".join(lines))
    status, output = checkout.run("start_vllm.sh", VLLM_MAX_LORAS="3")
    assert status == 1, output
    args, env = told(checkout)
    assert not (checkout.folder / "executed").exists()
    assert option(args, "--port") == str(unused_tcp_port)
    assert option(args, "--model") == option(args, "--served-model-name") == "./models of mine"
    assert option(args, "--max-loras") == "3", "the environment wins"
    assert option(args, "--max-lora-rank") == "32", "empty is unset"
    assert option(args, "--max-model-len") == "2048", "never more than the model can read"
    assert env["VLLM_API_KEY"] == "a # key"
    assert env["HF_TOKEN"] == "`touch executed`"
    assert env["VLLM_CPU_KVCACHE_SPACE"] == "1"
    assert "a # key" not in " ".join(args)


def test_what_vllm_is_started_with(checkout: Checkout, unused_tcp_port: int) -> None:
    checkout.install(TELL)
    checkout.model("local-models/tiny", '{"max_position_embeddings": 32768}')
    settings = {"VLLM_MODEL_NAME": "local-models/tiny", "VLLM_PORT": str(unused_tcp_port)}
    extra = """--chat-template-kwargs '{"a": "b c"}'"""
    checkout.run("start_vllm.sh", **settings, VLLM_SERVER_DEV_MODE="1", VLLM_EXTRA_ARGS=extra)
    args, env = told(checkout)
    assert args[:2] == ["-m", "vllm.entrypoints.openai.api_server"]
    assert option(args, "--dtype") == "bfloat16"
    assert option(args, "--max-model-len") == "4096"
    assert option(args, "--chat-template-kwargs") == '{"a": "b c"}'
    assert option(args, "--structured-outputs-config") == '{"backend":"xgrammar","disable_any_whitespace":true}'
    assert {"--enable-lora", "--enable-prefix-caching", "--enable-prompt-tokens-details", "--enforce-eager"} <= {*args}
    assert "--gpu-memory-utilization" not in args
    assert env["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] == "True"
    assert (env["VLLM_NO_USAGE_STATS"], env["DO_NOT_TRACK"], env["HF_HUB_OFFLINE"]) == ("1", "1", "1")
    # vLLM would take VLLM_PORT for its own parts, and the other one opens the developers' endpoints.
    assert not {"VLLM_PORT", "VLLM_SERVER_DEV_MODE", "VLLM_API_KEY", "SLM_API_KEY"} & {*env}

    checkout.run("start_vllm.sh", **settings, VLLM_MAX_LORAS="0")
    assert "--enable-lora" not in told(checkout)[0]

    checkout.run("start_vllm.sh", **settings, VLLM_TASK="embed")
    args, env = told(checkout)
    assert (option(args, "--runner"), option(args, "--convert")) == ("pooling", "embed")
    assert not {"--enable-lora", "--structured-outputs-config", "--max-model-len"} & {*args}
    assert "VLLM_ALLOW_RUNTIME_LORA_UPDATING" not in env

    checkout.install(TELL, device="gpu")
    checkout.run("start_vllm.sh", **settings, VLLM_GPU_MEMORY="0.7")
    args, env = told(checkout)
    assert option(args, "--gpu-memory-utilization") == "0.7"
    assert not {"--dtype", "--enforce-eager"} & {*args}
    assert "VLLM_CPU_KVCACHE_SPACE" not in env


# ---- start_vllm.sh, after vLLM ended


FREE_MEMORY = (
    "ValueError: Free memory on device cuda:0 (3.2/23.64 GiB) on startup is less than desired GPU memory utilization "
    "(0.9, 21.28 GiB). Decrease GPU memory utilization or reduce GPU memory used by other processes."
)
CUDA = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 7.78 GiB"
KV_CACHE = (
    "ValueError: To serve at least one request with the model's max seq len (8192), (1.5 GiB KV cache is needed, which "
    "is larger than the available KV cache memory (0.4 GiB). Based on the available memory, the estimated maximum"
)
GATED = """huggingface_hub.errors.GatedRepoError: 401 Client Error. (Request ID: Root=1)

Cannot access gated repo for url https://huggingface.co/meta-llama/Llama-2-7b-chat-hf/resolve/main/config.json.
OSError: You are trying to access a gated repo.
Make sure to have access to it at https://huggingface.co/meta-llama/Llama-2-7b-chat-hf."""
TOKEN = "huggingface_hub.errors.HfHubHTTPError: 403 Client Error: Forbidden for url: https://huggingface.co/x"
NOT_FOUND = """Repository Not Found for url: https://huggingface.co/api/models/a/b.
If you are trying to access a private or gated repo, make sure you are authenticated. 401 Client Error
OSError: a/b is not a local folder and is not a valid model identifier listed on 'https://huggingface.co/models'"""
OFFLINE = (
    "OSError: We couldn't connect to 'https://huggingface.co' to load the files, and couldn't find them in the cached "
    "files."
)
TOO_LONG = (
    "  Value error, User-specified max_model_len (4096) is greater than the derived max_model_len "
    "(max_position_embeddings=512 or model_max_length=None in model's config.json)."
)


@pytest.mark.parametrize(
    ("device", "printed", "status", "advice"),
    [
        ("gpu", FREE_MEMORY, 6, "VLLM_GPU_MEMORY=0.7 ./start_vllm.sh"),
        ("gpu", CUDA, 6, "VLLM_MODEL_NAME=unsloth/Qwen2.5-1.5B-Instruct ./start_vllm.sh"),
        ("gpu", KV_CACHE, 6, "VLLM_MAX_MODEL_LEN=2048 ./start_vllm.sh"),
        ("cpu", KV_CACHE, 6, "VLLM_CPU_KVCACHE_GB=4 ./start_vllm.sh"),
        ("cpu", GATED, 7, "HF_TOKEN=your_token_here ./start_vllm.sh"),
        ("cpu", TOKEN, 7, "HF_TOKEN is missing, wrong"),
        ("cpu", NOT_FOUND, 8, "The hub knows no model some/model"),
        ("cpu", OFFLINE, 8, "the hub cannot be reached"),
        ("cpu", "OSError: [Errno 28] No space left on device", 5, "HF_HOME="),
        ("cpu", "OSError: [Errno 98] Address already in use", 4, "VLLM_PORT="),
        ("cpu", TOO_LONG, 2, "max_position_embeddings=512"),
        ("cpu", "api_server.py: error: unrecognized arguments: --nope", 2, "unrecognized arguments: --nope"),
        ("cpu", "RuntimeError: something new", 1, "RuntimeError: something new"),
    ],
    ids=lambda value: str(value)[:24],
)
def test_what_vllm_died_of_is_recognised(
    checkout: Checkout, unused_tcp_port: int, device: str, printed: str, status: int, advice: str
) -> None:
    checkout.install(printing(printed), device)
    found, output = checkout.run("start_vllm.sh", VLLM_MODEL_NAME="some/model", VLLM_PORT=str(unused_tcp_port))
    assert found == status, output
    assert printed.splitlines()[0] in output, "vLLM's own output is shown"
    assert advice in output
    assert printed in (checkout.folder / f"logs/vllm-{unused_tcp_port}.log").read_text()


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL], ids=lambda how: how.name)
def test_nothing_outlives_the_script(checkout: Checkout, unused_tcp_port: int, how: signal.Signals) -> None:
    """A server with a child that does not listen to SIGTERM; killed outright, the script takes the server with it."""
    checkout.install(
        "echo $$ > pids; (trap '' TERM; echo $BASHPID >> pids; exec sleep 60) &\n"
        'trap "sleep 0.2; kill -KILL $!; exit 0" TERM\n'
        "while :; do sleep 0.1; done"
    )
    checkout.model("local-models/tiny")
    settings = {"VLLM_MODEL_NAME": "local-models/tiny", "VLLM_PORT": str(unused_tcp_port)}
    script = subprocess.Popen(
        ["./start_vllm.sh"],
        cwd=checkout.folder,
        env=checkout.environment(settings),
        stdout=subprocess.DEVNULL,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # noqa: PLW1509
    )
    pids = checkout.folder / "pids"
    wait_for(lambda: pids.exists() and len(pids.read_text().split()) == 2)

    status, output = checkout.run("start_vllm.sh", **settings)
    assert status == 4, "vLLM does not listen while it loads, and yet the port is spoken for"
    assert "another ./start_vllm.sh" in output

    script.send_signal(how)
    assert script.wait(timeout=30) == (0 if how != signal.SIGKILL else -signal.SIGKILL)
    wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids.read_text().split()))


def wait_for(condition: Callable[[], bool]) -> None:
    for _ in range(200):
        if condition():
            return
        time.sleep(0.05)
    raise AssertionError("it did not come about in ten seconds")
