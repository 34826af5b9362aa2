#!/usr/bin/env bash
# Install what embedding models are fine-tuned, quantized and evaluated with into an environment of its own:
# `venv-embed`. Safe to run again at any time.
#
#   ./setup_embedding.sh
#
# What may be set in the environment:
#   EMBED_DEVICE  gpu or cpu; unset: gpu where `nvidia-smi` works
#   EMBED_VENV    the folder, `venv-embed`
#   EMBED_PYTHON  the Python to make it with; unset: the first suitable one that is found
#
# Exit statuses: 0 installed, 1 an installation step failed, 2 a wrong setting, 3 no suitable Python,
# 5 not enough disk, 9 another ./setup_embedding.sh is at work.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
NAME=embedding PREFIX=EMBED FOLDER=venv-embed LOCK=requirements/embedding-training.txt
source scripts/environment.sh

TORCH=(torch==2.13.0)
VERSIONS="3.11 3.12 3.13"
WHAT="sentence-transformers, PEFT, OpenVINO"

choose_device
NEED_GB=4
if [[ $DEVICE == gpu ]]; then NEED_GB=12; fi

locked() { # the whole list of packages; bitsandbytes is of use on a GPU only
    if [[ $DEVICE == gpu ]]; then cat "$LOCK"; else awk '/^[a-z]/ { keep = !/^bitsandbytes==/ } keep' "$LOCK"; fi
}

check() {
    PYTHONWARNINGS=ignore "$VENV/bin/python" -c '
import nncf, openvino, peft, sentence_transformers, torch
print("setup_embedding: sentence-transformers", sentence_transformers.__version__, "with torch", torch.__version__)
'
}

set_up "$DEVICE"
say "done: $VENV. Next: make embed-finetune DATA=data/finetune/pairs.tsv OUTPUT=models/my-model"
