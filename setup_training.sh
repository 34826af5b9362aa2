#!/usr/bin/env bash
# Install what training scripts need into an environment of its own: `venv-train`. Safe to run again at any time.
#
#   ./setup_training.sh
#
# What may be set in the environment:
#   TRAIN_DEVICE   gpu or cpu; unset: gpu where `nvidia-smi` works
#   TRAIN_UNSLOTH  1 or 0: whether unsloth is installed too; unset: with a GPU. Without one it trains nothing, but the
#                  scripts' calls can be checked against it
#   TRAIN_VENV     the folder, `venv-train`
#   TRAIN_PYTHON   the Python to make it with; unset: the first suitable one that is found
#
# Exit statuses: 0 installed, 1 an installation step failed, 2 a wrong setting, 3 no suitable Python,
# 5 not enough disk, 9 another ./setup_training.sh is at work.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
NAME=training PREFIX=TRAIN FOLDER=venv-train LOCK=requirements/training.txt
source scripts/environment.sh

LOCK_UNSLOTH=requirements/training-unsloth.txt
TORCH=(torch==2.13.0)
VERSIONS="3.11 3.12 3.13"
WHAT="TRL, PEFT"

choose_device
NEED_GB=4 UNSLOTH=0
if [[ $DEVICE == gpu ]]; then NEED_GB=16 UNSLOTH=1; fi
case ${TRAIN_UNSLOTH:-$UNSLOTH} in
    0 | 1) UNSLOTH=${TRAIN_UNSLOTH:-$UNSLOTH} ;;
    *) fail 2 "TRAIN_UNSLOTH=$TRAIN_UNSLOTH is not usable: 1, 0, or unset for 1 with a GPU." ;;
esac
if [[ $UNSLOTH == 1 && $DEVICE == cpu ]]; then TORCH+=(triton==3.7.1); fi # comes with torch's CUDA build

locked() { # the whole list of packages
    cat "$LOCK"
    if [[ $UNSLOTH == 1 && $DEVICE == gpu ]]; then
        cat "$LOCK_UNSLOTH"
    elif [[ $UNSLOTH == 1 ]]; then # CUDA builds, which break imports without a GPU
        awk '/^[a-z]/ { keep = !/^(torchvision|torchao|xformers)==/ } keep' "$LOCK_UNSLOTH"
    fi
}

check() {
    PYTHONWARNINGS=ignore "$VENV/bin/python" -c '
import torch, trl
from trl import DPOTrainer, GRPOTrainer, RewardTrainer, SFTTrainer
print("setup_training: trl", trl.__version__, "with torch", torch.__version__)
'
}

set_up "$DEVICE$([[ $UNSLOTH == 0 ]] || echo ", unsloth")"
say "done: $VENV. Next: embed-service train run, or $VENV/bin/python data/training/train_model.py"
