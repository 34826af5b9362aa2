# shellcheck shell=bash
# What ./setup_vllm.sh, ./setup_training.sh and ./setup_embedding.sh share: making an environment, and knowing a
# finished one. Sourced.
#
# They set NAME (setup_$NAME.sh), PREFIX (of their settings), FOLDER (where the environment goes unless ${PREFIX}_VENV
# says otherwise) and LOCK (the list of packages), call choose_device, set VERSIONS (of Python) and NEED_GB (of disk),
# define these, and call set_up:
#   check     load once what was installed
#   locked    print the list of packages with their hashes; set TORCH (requirements, installed last) and WHAT (what the
#             packages are, for people) beside it
# Where it is not as simple as that, these are defined instead of `locked`:
#   wanted    print what the stamp of a finished installation says; its first line is device=gpu or device=cpu
#   pins      print the pinned packages, a requirement a line
#   install   install them

CHECKOUT=$(pwd)
TORCH_CPU_INDEX=https://download.pytorch.org/whl/cpu

say() { printf 'setup_%s: %s\n' "$NAME" "$*"; }
fail() { # STATUS LINE...
    local status=$1 line
    shift
    for line in "$@"; do printf 'setup_%s: %s\n' "$NAME" "$line" >&2; done
    exit "$status"
}

ours() { # SETTING: the value of this script's own setting, e.g. of VLLM_DEVICE
    local variable=${PREFIX}_$1
    printf '%s' "${!variable:-}"
}

choose_device() { # sets DEVICE
    DEVICE=$(ours DEVICE)
    case $DEVICE in
        gpu | cpu) ;;
        "") if nvidia-smi >/dev/null 2>&1; then DEVICE=gpu; else DEVICE=cpu; fi ;;
        *) fail 2 "${PREFIX}_DEVICE=$DEVICE is not usable: gpu, cpu, or unset to look for a GPU." ;;
    esac
}

is_suitable() { # PYTHON
    "$1" -c "import sys, venv, ensurepip; sys.exit('%d.%d' % sys.version_info[:2] not in '$VERSIONS'.split())" >/dev/null 2>&1
}

find_python() {
    local candidate named text
    named=$(ours PYTHON)
    text=$(sed -E 's/ /, /g; s/, ([^,]*)$/ or \1/' <<<"$VERSIONS")
    for candidate in ${named:+"$named"} python3.11 python3.12 python3.13 python3 "$(uv python find 3.11 2>/dev/null || true)"; do
        if [[ -n $candidate ]] && is_suitable "$candidate"; then
            echo "$candidate"
            return
        fi
        [[ -z $named ]] || fail 3 "${PREFIX}_PYTHON=$candidate is not usable: Python $text with venv is needed."
    done
    fail 3 "Python $text with venv is needed and was not found." \
        "Install it (Debian, Ubuntu: apt-get install python3.11 python3.11-venv; anywhere: uv python install 3.11)," \
        "or name it: ${PREFIX}_PYTHON=/path/to/python3.11 ./setup_$NAME.sh"
}

require_disk() {
    local parent free used=0
    parent=$(dirname "$VENV")
    mkdir -p "$parent"
    free=$(df -Pk "$parent" | awk 'NR == 2 { print $4 }')
    if [[ -d $VENV ]]; then used=$(du -sk "$VENV" | cut -f1); fi
    ((free + used >= NEED_GB * 1000000)) || fail 5 \
        "$NEED_GB GB of free disk are needed where $VENV goes; there are $(((free + used) / 1000000)) GB." \
        "Free some (pip cache purge), or put it elsewhere: ${PREFIX}_VENV=/big/disk/$FOLDER ./setup_$NAME.sh," \
        "and give the same ${PREFIX}_VENV to what uses it."
}

pip() { "$VENV/bin/python" -m pip --disable-pip-version-check --no-input "$@"; }

pip_install_torch() { # REQUIREMENT...: from PyTorch's own index of CPU builds where there is no GPU
    local index=()
    if [[ $DEVICE == cpu ]]; then
        if ! command -v curl >/dev/null || curl -sfIo /dev/null --max-time 3 "$TORCH_CPU_INDEX/torch/"; then
            index=(--extra-index-url "$TORCH_CPU_INDEX")
        else
            say "PyTorch's own index does not answer; taking torch from where pip looks anyway (it may be the large GPU build)"
        fi
    fi
    pip install --no-warn-conflicts "${index[@]}" "$@" || install_failed "$*"
}

install_failed() {
    fail 1 "The installation failed in this step: $1." \
        "What pip said is above. With a network that works again, run ./setup_$NAME.sh once more: it repairs what is there."
}

wanted() {
    echo "device=$DEVICE"
    echo "${TORCH[*]}"
    locked | cksum
}

pins() {
    locked
    printf '%s\n' "${TORCH[@]}"
}

install() {
    say "step 1 of 2: $WHAT and what they need"
    locked >"$VENV/.locked.txt"
    pip install -q --no-warn-conflicts --no-deps --require-hashes -r "$VENV/.locked.txt" || install_failed "packages of $LOCK"
    say "step 2 of 2: ${TORCH[*]}"
    pip_install_torch -q "${TORCH[@]}"
}

has_pins() { # every pinned package is there in its version
    pins | grep -E '^[a-z0-9]' | "$VENV/bin/python" -c '
import importlib.metadata, sys
from pip._vendor.packaging.requirements import Requirement
for line in sys.stdin:
    pin = Requirement(line.rstrip("\\\n "))
    if pin.marker is None or pin.marker.evaluate():
        version = importlib.metadata.version(pin.name).partition("+")[0]
        sys.exit(1) if version not in pin.specifier else None
' 2>/dev/null
}

make_environment() {
    local python
    if [[ -f $DONE && $(head -1 "$DONE") == "device=$DEVICE" ]] && is_suitable "$VENV/bin/python"; then
        say "$VENV is not as this version wants it; putting its packages right"
        touch "$BEGUN"
        rm -f "$DONE"
        return
    fi
    python=$(find_python)
    if [[ -e $VENV ]]; then
        say "$VENV is incomplete or for another device; making it anew"
        rm -rf "$VENV"
    fi
    say "making $VENV with $("$python" -V) for the $DEVICE ..."
    mkdir -p "$VENV"
    touch "$BEGUN"
    "$python" -m venv "$VENV" || install_failed "making $VENV"
}

set_up() { # NOTE: what to say of a finished environment
    VENV=$(ours VENV)
    VENV=${VENV:-$FOLDER}
    DONE=$VENV/.setup-$NAME-done
    BEGUN=$VENV/.setup-$NAME-begun
    if command -v flock >/dev/null; then
        exec 9<"$CHECKOUT/$LOCK"
        flock -w 3 9 || fail 9 "Another ./setup_$NAME.sh is at work in this checkout; wait for it."
    fi
    if [[ -f $DONE && $(<"$DONE") == "$(wanted)" ]] && has_pins; then
        say "$VENV is complete ($1)"
        exit 0
    fi
    if [[ -e $VENV ]] && ! [[ -f $BEGUN || -f $DONE ]] && [[ -n $(ls -A "$VENV") ]]; then
        fail 2 "${PREFIX}_VENV=$VENV is not usable: there is something else in it. Name a new folder."
    fi
    require_disk
    make_environment
    install
    say "last step: loading it once, to see that it works"
    check || install_failed "loading it"
    wanted >"$DONE.new"
    mv "$DONE.new" "$DONE"
    rm -f "$BEGUN"
}
