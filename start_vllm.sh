#!/usr/bin/env bash
# Start vLLM, the model server, with the model that the service asks for. ./setup_vllm.sh installs it.
#
#   ./start_vllm.sh
#   VLLM_PORT=8001 VLLM_MODEL_NAME=BAAI/bge-reranker-large VLLM_TASK=rerank ./start_vllm.sh
#
# Settings come from the environment, else from lines NAME=value of the file .env (which is read, never executed);
# an empty value counts as unset.
#   VLLM_MODEL_NAME     unsloth/Qwen2.5-3B-Instruct   a name on the Hugging Face hub, or a folder: ./..., /...,
#                                                     local-models/...; it is served under exactly this name
#   VLLM_HOST           127.0.0.1
#   VLLM_PORT           8000
#   VLLM_TASK           generate      or rerank, or embed: one instance does one of them
#   VLLM_GPU_MEMORY     0.9           share of the GPU's memory that vLLM may take
#   VLLM_CPU_KVCACHE_GB 2             without GPU: memory for the conversations being worked on
#   VLLM_MAX_MODEL_LEN  4096          longest prompt and answer together, in tokens; with a GPU 8192
#   VLLM_MAX_LORAS      4             LoRA adapters in use at once; 0 turns them off
#   VLLM_MAX_LORA_RANK  32            1, 8, 16, 32, 64, 128, 256, 320 or 512
#   VLLM_EXTRA_ARGS                   further options of vLLM, quoted as in a shell
#   SLM_API_KEY                       the key that callers must send
#   HF_TOKEN                          for gated and private models; HF_HOME, HF_ENDPOINT, HF_HUB_OFFLINE and
#                                     CUDA_VISIBLE_DEVICES are passed on as well
#   LOG_DIR             logs          output also goes to vllm.log there, vllm-PORT.log for another port than 8000
# Only in the environment: VLLM_VENV (venv-vllm), where ./setup_vllm.sh put it.
#
# Exit statuses: 0 stopped by Ctrl-C or SIGTERM, 1 vLLM ended for another reason, 2 a wrong setting or model folder,
# 3 vLLM is not installed, 4 the port is taken, 5 not enough disk, 6 not enough memory, 7 the model needs permission,
# 8 the model was not found or cannot be downloaded.
set -euo pipefail
CHECKOUT=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cd "$CHECKOUT"

say() { printf 'start_vllm: %s\n' "$*"; }
fail() { # STATUS LINE...
    local status=$1 line
    shift
    for line in "$@"; do printf 'start_vllm: %s\n' "$line" >&2; done
    exit "$status"
}

setting() { # NAME [DEFAULT]
    local value=${!1:-} line quote
    if [[ -z $value && -f .env ]]; then
        while IFS= read -r line || [[ -n $line ]]; do
            [[ ${line%$'\r'} =~ ^[[:space:]]*(export[[:space:]]+)?"$1"[[:space:]]*=[[:space:]]*(.*)$ ]] || continue
            value=${BASH_REMATCH[2]}
            quote=${value:0:1}
            if [[ $quote == [\"\'] ]]; then
                value=${value:1}
                value=${value%%"$quote"*}
            else
                value=${value%%[[:space:]]#*}
                if [[ $quote == "#" ]]; then value=; fi
                value=${value%"${value##*[![:space:]]}"}
            fi
        done <.env
    fi
    printf '%s' "${value:-${2:-}}"
}

require_match() { # NAME VALUE PATTERN WHAT-IT-MAY-BE
    [[ $2 =~ ^($3)$ ]] || fail 2 "$1=$2 is not usable: $4."
}

# ---- settings

MODEL=$(setting VLLM_MODEL_NAME unsloth/Qwen2.5-3B-Instruct)
HOST=$(setting VLLM_HOST 127.0.0.1)
PORT=$(setting VLLM_PORT 8000)
TASK=$(setting VLLM_TASK generate)
GPU_MEMORY=$(setting VLLM_GPU_MEMORY 0.9)
KVCACHE_GB=$(setting VLLM_CPU_KVCACHE_GB 2)
MAX_LEN=$(setting VLLM_MAX_MODEL_LEN)
MAX_LORAS=$(setting VLLM_MAX_LORAS 4)
MAX_LORA_RANK=$(setting VLLM_MAX_LORA_RANK 32)
EXTRA_ARGS=$(setting VLLM_EXTRA_ARGS)
API_KEY=$(setting SLM_API_KEY)
LOG_DIR=$(setting LOG_DIR logs)
VENV=${VLLM_VENV:-venv-vllm}

require_match VLLM_PORT "$PORT" '[1-9][0-9]{0,4}' "a port from 1 to 65535"
((PORT <= 65535)) || fail 2 "VLLM_PORT=$PORT is not usable: a port from 1 to 65535."
require_match VLLM_TASK "$TASK" 'generate|rerank|embed' "generate, rerank or embed"
require_match VLLM_GPU_MEMORY "$GPU_MEMORY" '0?\.[0-9]*[1-9][0-9]*|1(\.0*)?' "a share above 0, at most 1, e.g. 0.7"
require_match VLLM_CPU_KVCACHE_GB "$KVCACHE_GB" '[1-9][0-9]{0,3}' "whole gigabytes, 1 or more"
require_match VLLM_MAX_MODEL_LEN "${MAX_LEN:-1}" '[1-9][0-9]{0,7}' "a number of tokens"
require_match VLLM_MAX_LORAS "$MAX_LORAS" '[0-9]{1,3}' "a number, 0 for none"
require_match VLLM_MAX_LORA_RANK "$MAX_LORA_RANK" '1|8|16|32|64|128|256|320|512' "1, 8, 16, 32, 64, 128, 256, 320 or 512"

# ---- what is installed

DEVICE=$(sed -n 's/^device=//p' "$VENV/.setup-vllm-done" 2>/dev/null || true)
[[ -x $VENV/bin/python && -n $DEVICE ]] || fail 3 \
    "vLLM is not installed in $VENV, or not completely. Run ./setup_vllm.sh first."
if [[ $DEVICE == gpu ]] && ! nvidia-smi >/dev/null 2>&1; then
    fail 3 "$VENV was made for a GPU, and nvidia-smi finds none here." \
        "Repair the driver, or serve from the processor: VLLM_DEVICE=cpu ./setup_vllm.sh"
fi

# ---- the model

FOLDER=
case $MODEL in
    /* | ./* | ../* | local-models/*) FOLDER=$MODEL ;;
    [~]/*) FOLDER=$HOME/${MODEL:2} ;;
    *) if [[ -d $MODEL ]]; then FOLDER=$MODEL; fi ;;
esac
if [[ -n $FOLDER ]]; then
    [[ -d $FOLDER ]] || fail 2 "VLLM_MODEL_NAME=$MODEL is a folder, and there is none at $(realpath -m "$FOLDER")." \
        "Put a model there, or name one of the Hugging Face hub, such as unsloth/Qwen2.5-3B-Instruct."
    [[ -f $FOLDER/config.json ]] || fail 2 "VLLM_MODEL_NAME=$MODEL has no config.json: it is not a model in Hugging Face form." \
        "An adapter alone (adapter_config.json) is loaded into a running server; see docs/vllm.md."
fi

download_gigabytes() { # about what the weights of a hub's model weigh, told from its name
    local name=${MODEL##*/} bytes=2
    if [[ $name =~ [Gg][Pp][Tt][Qq]|[Aa][Ww][Qq]|4bit|[Ii]nt4|-bnb ]]; then bytes=0.8; fi
    if [[ $name =~ (^|[-_])([0-9]+(\.[0-9]+)?)[Bb]([-_.]|$) ]]; then
        awk -v n="${BASH_REMATCH[2]}" -v bytes="$bytes" 'BEGIN { printf "%d", n * bytes + 0.6 }'
    else
        echo 3
    fi
}

require_disk_for_download() {
    local home cached need free
    home=$(setting HF_HOME "$HOME/.cache/huggingface")
    cached=${HF_HUB_CACHE:-$home/hub}/models--${MODEL//\//--}
    if [[ -n $(setting HF_HUB_OFFLINE) ]]; then return; fi
    if compgen -G "$cached/snapshots/*/config.json" >/dev/null && ! compgen -G "$cached/blobs/*.incomplete" >/dev/null; then
        return
    fi
    mkdir -p "$home" 2>/dev/null || return 0
    need=$(download_gigabytes)
    free=$(($(df -Pk "$home" | awk 'NR == 2 { print $4 }') / 1000000))
    ((free >= need)) || fail 5 "$MODEL is not on this machine yet: its download takes about $need GB, and $home has $free GB free." \
        "Free some, or keep models elsewhere (HF_HOME=/big/disk/huggingface), or use a smaller model:" \
        "VLLM_MODEL_NAME=unsloth/Qwen2.5-1.5B-Instruct ./start_vllm.sh"
    say "$MODEL is not on this machine yet and will be downloaded (about $need GB)"
}
if [[ -z $FOLDER ]]; then require_disk_for_download; fi

# ---- the port

PROBE=$HOST
case $HOST in 0.0.0.0) PROBE=127.0.0.1 ;; :: | "[::]") PROBE=::1 ;; esac
URL=http://$PROBE:$PORT
[[ $PROBE != *:* ]] || URL=http://[$PROBE]:$PORT

is_open() { (exec 3<>"/dev/tcp/$PROBE/$PORT") 2>/dev/null; }
port_taken() {
    local holder=""
    if command -v ss >/dev/null; then
        holder=$(ss -Hltnp "sport = :$PORT" 2>/dev/null | grep -o '("[^"]*",pid=[0-9]*' | head -1 | sed 's/("\([^"]*\)",pid=/\1, process /' || true)
    elif command -v lsof >/dev/null; then
        holder=$(lsof -nP -iTCP:"$PORT" -sTCP:LISTEN -Fpc 2>/dev/null | tr '\n' ' ' | sed 's/^p\([0-9]*\) c\([^ ]*\).*/\2, process \1/' || true)
    fi
    fail 4 "Port $PORT on $HOST is taken${holder:+ by $holder}." \
        "If that is vLLM already, there is nothing to do. Otherwise take another port: VLLM_PORT=$((PORT < 65535 ? PORT + 1 : 8001)) ./start_vllm.sh" \
        "and set VLLM_BASE_URL to it for the service."
}
if is_open; then port_taken; fi

mkdir -p "$LOG_DIR"
if ((PORT == 8000)); then LOG=$LOG_DIR/vllm.log; else LOG=$LOG_DIR/vllm-$PORT.log; fi
# While it loads its model vLLM does not listen yet, and two of them could be started for one port.
if command -v flock >/dev/null; then
    exec 9>>"$LOG.lock"
    flock -n 9 || fail 4 "Port $PORT is taken: another ./start_vllm.sh in this checkout is starting or running there ($LOG)." \
        "Take another port: VLLM_PORT=$((PORT < 65535 ? PORT + 1 : 8001)) ./start_vllm.sh"
fi

# ---- the command

ARGS=(--model "${FOLDER:-$MODEL}" --served-model-name "$MODEL" --host "$HOST" --port "$PORT"
    --disable-access-log-for-endpoints "/health,/metrics,/ping" --enable-prompt-tokens-details)
VARIABLES=(VLLM_NO_USAGE_STATS=1 DO_NOT_TRACK=1 HF_HUB_DISABLE_TELEMETRY=1 PYTHONUNBUFFERED=1)

if [[ $TASK == generate ]]; then
    if [[ -z $MAX_LEN ]]; then if [[ $DEVICE == cpu ]]; then MAX_LEN=4096; else MAX_LEN=8192; fi; fi
    ARGS+=(--enable-prefix-caching --structured-outputs-config '{"backend":"xgrammar","disable_any_whitespace":true}')
    if ((MAX_LORAS > 0)); then
        ARGS+=(--enable-lora --max-loras "$MAX_LORAS" --max-lora-rank "$MAX_LORA_RANK")
        VARIABLES+=(VLLM_ALLOW_RUNTIME_LORA_UPDATING=True)
    fi
else
    ARGS+=(--runner pooling)
    if [[ $TASK == embed ]]; then ARGS+=(--convert embed); fi
fi
if [[ -n $MAX_LEN ]]; then
    longest=
    if [[ -n $FOLDER ]]; then
        longest=$(grep -o '"max_position_embeddings": *[0-9]*' "$FOLDER/config.json" | grep -o '[0-9]*$' | sort -n | tail -1 || true)
    fi
    if [[ -n $longest ]] && ((MAX_LEN > longest)); then MAX_LEN=$longest; fi
    ARGS+=(--max-model-len "$MAX_LEN")
fi
if [[ $DEVICE == cpu ]]; then
    ARGS+=(--dtype bfloat16 --enforce-eager --max-num-seqs 16)
    # The blocks in which prompts are kept: with 128, the default, little of a prompt of 500 tokens is used again.
    if [[ $TASK == generate ]]; then ARGS+=(--block-size 32); fi
    VARIABLES+=(VLLM_CPU_KVCACHE_SPACE="$KVCACHE_GB")
else
    ARGS+=(--gpu-memory-utilization "$GPU_MEMORY")
fi
if [[ -n $EXTRA_ARGS ]]; then
    words=$(xargs -n1 printf '%s\n' <<<"$EXTRA_ARGS" 2>/dev/null) || fail 2 "VLLM_EXTRA_ARGS=$EXTRA_ARGS is not usable: a quote is not closed."
    mapfile -t words <<<"$words"
    ARGS+=("${words[@]}")
fi

# By the environment and not as options: `ps` shows options to everybody.
if [[ -n $API_KEY ]]; then VARIABLES+=(VLLM_API_KEY="$API_KEY"); fi
for name in HF_TOKEN HF_HOME HF_ENDPOINT HF_HUB_OFFLINE CUDA_VISIBLE_DEVICES; do
    value=$(setting "$name")
    if [[ -n $value ]]; then VARIABLES+=("$name=$value"); fi
done
if [[ -n $FOLDER && -z $(setting HF_HUB_OFFLINE) ]]; then VARIABLES+=(HF_HUB_OFFLINE=1); fi # nothing to fetch
export "${VARIABLES[@]}"
# The developers' endpoints would let any caller put the server to sleep. vLLM itself reads VLLM_PORT, as a port for
# its parts to talk over, and complains of names that it does not know.
unset VLLM_SERVER_DEV_MODE VLLM_PORT VLLM_HOST VLLM_VENV VLLM_MODEL_NAME VLLM_TASK VLLM_GPU_MEMORY VLLM_CPU_KVCACHE_GB \
    VLLM_MAX_MODEL_LEN VLLM_MAX_LORAS VLLM_MAX_LORA_RANK VLLM_EXTRA_ARGS VLLM_BASE_URL VLLM_RERANK_URL VLLM_DEVICE \
    VLLM_PYTHON VLLM_TEST_URL SLM_API_KEY

case $HOST in
    127.* | localhost | ::1) ;;
    *) if [[ -z $API_KEY ]]; then say "warning: $HOST is reachable from other machines, and SLM_API_KEY is not set: anybody may use this server"; fi ;;
esac

# ---- run it

SERVER=
is_group_alive() { kill -0 -- "-$SERVER" 2>/dev/null; }
end_group() { # SECONDS: how long what is left of vLLM may take to end by itself
    local tenth
    for ((tenth = 0; tenth < $1 * 10; tenth++)); do
        is_group_alive || return 0
        sleep 0.1
    done
    kill -KILL -- "-$SERVER" 2>/dev/null || true
}
# shellcheck disable=SC2329  # the trap below calls it
stop() {
    trap 'kill -KILL -- "-$SERVER" 2>/dev/null || true' INT TERM
    say "stopping vLLM ..."
    kill -TERM "$SERVER" 2>/dev/null || true
    end_group 20
    say "stopped"
    exit 0
}

if [[ -f $LOG ]]; then mv -f "$LOG" "$LOG.1"; fi
: >"$LOG"
say "starting vLLM: $MODEL ($TASK, $DEVICE) on $HOST:$PORT; its output goes to $LOG, too"

# A session of its own, so that nothing of it outlives it; and it ends when this script is killed.
trap stop INT TERM HUP
LAUNCH=(setsid)
if setpriv --pdeathsig TERM true 2>/dev/null; then LAUNCH+=(setpriv --pdeathsig TERM); fi
"${LAUNCH[@]}" "$VENV/bin/python" -m vllm.entrypoints.openai.api_server "${ARGS[@]}" >"$LOG" 2>&1 9>&- &
SERVER=$!
tail -n +1 -s 0.2 -f --pid="$SERVER" "$LOG" 2>/dev/null 9>&- &
SHOWN=$!

is_healthy() {
    (
        exec 3<>"/dev/tcp/$PROBE/$PORT"
        printf 'GET /health HTTP/1.0\r\nHost: localhost\r\n\r\n' >&3
        IFS= read -r -t 5 answer <&3
        [[ $answer == *" 200 "* ]]
    ) 2>/dev/null
}
while kill -0 "$SERVER" 2>/dev/null; do
    if is_healthy; then
        say "vLLM is ready on $URL/v1, model $MODEL"
        break
    fi
    sleep 0.25 &
    wait $! || true
done
status=0
wait "$SERVER" || status=$?
end_group 5
wait "$SHOWN" || true

# ---- why it ended

logged() { grep -qE "$1" "$LOG"; }
ended() { # STATUS LINE...
    local status=$1
    shift
    fail "$status" "vLLM ended. Its output is in $LOG." "$@"
}

if logged 'annot access gated repo|access a gated repo|is a gated repository|GatedRepoError|is restricted and you are not in the authorized list'; then
    ended 7 "$MODEL is gated: its owner asks for an account and a consent." \
        "Accept the terms on the model's page of the hub, make a token there, then:" \
        "HF_TOKEN=your_token_here ./start_vllm.sh (or the line HF_TOKEN=... in .env)"
elif logged 'Repository Not Found for url|RepositoryNotFoundError|is not a valid model identifier'; then
    ended 8 "The hub knows no model $MODEL. Check VLLM_MODEL_NAME." \
        "If the model is private: HF_TOKEN=your_token_here ./start_vllm.sh. If it is a folder, begin with ./ or /."
elif logged '40[13] Client Error|Invalid user(name or password| token)|HTTPStatusError.*40[13]'; then
    ended 7 "The hub refused access to $MODEL. HF_TOKEN is missing, wrong, or lacks the right to read this model:" \
        "HF_TOKEN=your_token_here ./start_vllm.sh"
elif logged "couldn't connect to|LocalEntryNotFoundError|OfflineModeIsEnabled|Temporary failure in name resolution|Name or service not known"; then
    ended 8 "$MODEL is not on this machine, and the hub cannot be reached to download it." \
        "With a network, start again. Without one, put the model into a folder: VLLM_MODEL_NAME=./local-models/NAME ./start_vllm.sh"
elif logged 'No space left on device'; then
    ended 5 "The disk is full. Free some, or keep models elsewhere: HF_HOME=/big/disk/huggingface ./start_vllm.sh"
elif logged 'larger than the available KV cache|No available memory for the cache blocks'; then
    if [[ $DEVICE == cpu ]]; then
        ended 6 "There is too little memory for requests of ${MAX_LEN:-its longest} tokens. Give more, or ask for less:" \
            "VLLM_CPU_KVCACHE_GB=$((KVCACHE_GB * 2)) ./start_vllm.sh" "VLLM_MAX_MODEL_LEN=2048 ./start_vllm.sh"
    fi
    ended 6 "The model fits into the GPU, but leaves too little memory for requests of ${MAX_LEN:-its longest} tokens. One of:" \
        "VLLM_MAX_MODEL_LEN=2048 ./start_vllm.sh" "VLLM_GPU_MEMORY=0.95 ./start_vllm.sh" \
        "VLLM_MODEL_NAME=unsloth/Qwen2.5-1.5B-Instruct ./start_vllm.sh"
elif logged 'CUDA out of memory|OutOfMemoryError|Free memory on device|CUDA error: out of memory'; then
    ended 6 "The GPU has too little free memory. Take less of it, or a smaller model; nvidia-smi shows who else uses it:" \
        "VLLM_GPU_MEMORY=0.7 ./start_vllm.sh" "VLLM_MODEL_NAME=unsloth/Qwen2.5-1.5B-Instruct ./start_vllm.sh"
elif logged 'Available memory on node|can.t allocate memory|Cannot allocate memory|MemoryError' || ((status == 137)); then
    ended 6 "This machine has too little free memory. Take less of it, or a smaller model:" \
        "VLLM_CPU_KVCACHE_GB=1 ./start_vllm.sh" "VLLM_MODEL_NAME=unsloth/Qwen2.5-1.5B-Instruct ./start_vllm.sh"
elif logged 'ddress already in use'; then
    port_taken
elif logged 'greater than the derived max_model_len'; then
    ended 2 "That is more than $MODEL can read: $(grep -oE 'User-specified max_model_len.*' "$LOG" | head -1)" \
        "Set VLLM_MAX_MODEL_LEN to what it can, or less."
elif logged 'Bfloat16 is only supported on GPUs'; then
    ended 2 "This GPU is too old for the model's number format: VLLM_EXTRA_ARGS='--dtype half' ./start_vllm.sh"
elif logged 'does not support LoRA'; then
    ended 2 "vLLM has no LoRA for this model: VLLM_MAX_LORAS=0 ./start_vllm.sh"
elif logged 'error: (unrecognized arguments|argument )'; then
    ended 2 "vLLM does not understand its options (VLLM_EXTRA_ARGS): $(grep -oE 'error: (unrecognized arguments|argument ).*' "$LOG" | tail -1)"
fi
ended 1 "Its last error: $(grep -E '(Error|Exception): |Value error, ' "$LOG" | tail -1 | cut -c1-400)" \
    "docs/vllm.md, \"Troubleshooting\", has more."
