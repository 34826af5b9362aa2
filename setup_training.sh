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
CHECKOUT=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cd "$CHECKOUT"

VENV=${TRAIN_VENV:-venv-train}
LOCK=requirements/training.txt
LOCK_UNSLOTH=requirements/training-unsloth.txt
PINS=(torch==2.13.0)
TORCH_CPU_INDEX=https://download.pytorch.org/whl/cpu
DONE=$VENV/.setup-training-done
BEGUN=$VENV/.setup-training-begun

say() { printf 'setup_training: %s\n' "$*"; }
fail() { # STATUS LINE...
    local status=$1 line
    shift
    for line in "$@"; do printf 'setup_training: %s\n' "$line" >&2; done
    exit "$status"
}

choose_device() {
    case ${TRAIN_DEVICE:-} in
        gpu | cpu) echo "$TRAIN_DEVICE" ;;
        "") if nvidia-smi >/dev/null 2>&1; then echo gpu; else echo cpu; fi ;;
        *) fail 2 "TRAIN_DEVICE=$TRAIN_DEVICE is not usable: gpu, cpu, or unset to look for a GPU." ;;
    esac
}

is_suitable() { # PYTHON
    "$1" -c "import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))" >/dev/null 2>&1
}

find_python() {
    local candidate
    for candidate in ${TRAIN_PYTHON:+"$TRAIN_PYTHON"} python3.11 python3.12 python3.13 python3; do
        if is_suitable "$candidate"; then
            echo "$candidate"
            return
        fi
        [[ -z ${TRAIN_PYTHON:-} ]] || fail 3 "TRAIN_PYTHON=$candidate is not usable: Python 3.11 to 3.13 with venv is needed."
    done
    fail 3 "Python 3.11, 3.12 or 3.13 with venv is needed and was not found." \
        "Install it (Debian, Ubuntu: apt-get install python3-venv), or name it: TRAIN_PYTHON=/path/to/python3.11 ./setup_training.sh"
}

require_disk() { # GIGABYTES
    local parent free used=0
    parent=$(dirname "$VENV")
    mkdir -p "$parent"
    free=$(df -Pk "$parent" | awk 'NR == 2 { print $4 }')
    if [[ -d $VENV ]]; then used=$(du -sk "$VENV" | cut -f1); fi
    ((free + used >= $1 * 1000000)) || fail 5 \
        "$1 GB of free disk are needed where $VENV goes; there are $(((free + used) / 1000000)) GB." \
        "Free some (pip cache purge), or put it elsewhere: TRAIN_VENV=/big/disk/venv-train ./setup_training.sh"
}

locked() { # the whole list of packages
    cat "$LOCK"
    if [[ $UNSLOTH == 1 && $DEVICE == gpu ]]; then
        cat "$LOCK_UNSLOTH"
    elif [[ $UNSLOTH == 1 ]]; then # CUDA builds, which break imports without a GPU
        awk '/^[a-z]/ { keep = !/^(torchvision|torchao|xformers)==/ } keep' "$LOCK_UNSLOTH"
    fi
}

wanted() { # what a finished installation's stamp says
    echo "device=$DEVICE"
    echo "${PINS[*]}"
    locked | cksum
}

is_whole() { # every pinned package is there in its version
    locked | grep -E '^[a-z0-9]' | "$VENV/bin/python" -c '
import importlib.metadata, sys
from pip._vendor.packaging.requirements import Requirement
for line in [*sys.stdin, *sys.argv[1:]]:
    pin = Requirement(line.rstrip("\\\n "))
    if pin.marker is None or pin.marker.evaluate():
        version = importlib.metadata.version(pin.name).partition("+")[0]
        sys.exit(1) if version not in pin.specifier else None
' "${PINS[@]}" 2>/dev/null
}

pip() { "$VENV/bin/python" -m pip --disable-pip-version-check --no-input "$@"; }

install_failed() {
    fail 1 "The installation failed in this step: $1." \
        "What pip said is above. With a network that works again, run ./setup_training.sh once more: it repairs what is there."
}

install_packages() {
    local index=()
    say "step 1 of 2: TRL, PEFT and what they need"
    locked >"$VENV/.locked.txt"
    pip install -q --no-warn-conflicts --no-deps --require-hashes -r "$VENV/.locked.txt" || install_failed "packages of $LOCK"
    say "step 2 of 2: ${PINS[*]}"
    if [[ $DEVICE == cpu ]]; then
        if ! command -v curl >/dev/null || curl -sfIo /dev/null --max-time 3 "$TORCH_CPU_INDEX/torch/"; then
            index=(--extra-index-url "$TORCH_CPU_INDEX")
        else
            say "PyTorch's own index does not answer; taking torch from where pip looks anyway (it may be the large GPU build)"
        fi
    fi
    pip install -q --no-warn-conflicts "${index[@]}" "${PINS[@]}" || install_failed "${PINS[*]}"
}

check_imports() {
    say "last step: loading the trainers once, to see that they work"
    PYTHONWARNINGS=ignore "$VENV/bin/python" -c '
import torch, trl
from trl import DPOTrainer, GRPOTrainer, RewardTrainer, SFTTrainer
print("setup_training: trl", trl.__version__, "with torch", torch.__version__)
' || install_failed "loading TRL"
}

DEVICE=$(choose_device)
NEED_GB=4 UNSLOTH=0
if [[ $DEVICE == gpu ]]; then NEED_GB=16 UNSLOTH=1; fi
case ${TRAIN_UNSLOTH:-$UNSLOTH} in
    0 | 1) UNSLOTH=${TRAIN_UNSLOTH:-$UNSLOTH} ;;
    *) fail 2 "TRAIN_UNSLOTH=$TRAIN_UNSLOTH is not usable: 1, 0, or unset for 1 with a GPU." ;;
esac
if [[ $UNSLOTH == 1 && $DEVICE == cpu ]]; then PINS+=(triton==3.7.1); fi # comes with torch's CUDA build

if command -v flock >/dev/null; then
    exec 9<"$CHECKOUT/requirements/training.txt"
    flock -w 3 9 || fail 9 "Another ./setup_training.sh is at work in this checkout; wait for it."
fi

if [[ -f $DONE && $(<"$DONE") == "$(wanted)" ]] && is_whole; then
    say "$VENV is complete ($DEVICE$([[ $UNSLOTH == 0 ]] || echo ", unsloth"))"
    exit 0
fi
if [[ -e $VENV ]] && ! [[ -f $BEGUN || -f $DONE ]] && [[ -n $(ls -A "$VENV") ]]; then
    fail 2 "TRAIN_VENV=$VENV is not usable: there is something else in it. Name a new folder."
fi
require_disk $NEED_GB

if [[ -f $DONE && $(head -1 "$DONE") == "device=$DEVICE" ]] && is_suitable "$VENV/bin/python"; then
    say "$VENV is not as this version wants it; putting its packages right"
    touch "$BEGUN"
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

install_packages
check_imports
wanted >"$DONE.new"
mv "$DONE.new" "$DONE"
rm -f "$BEGUN"
say "done: $VENV. Next: $VENV/bin/python data/training/train_model.py"
