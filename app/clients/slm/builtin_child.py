"""The process behind SLM_IMPL=builtin: llama.cpp's HTTP server with one model, on loopback, for one owner.

    python -m app.clients.slm.builtin_child

is started by `builtin.py`. It reads one line of JSON from stdin (so that the key is in no command line and in no
environment), says `{"address": …}` on stdout when it answers, and serves until stdin ends: whatever ends the owner
ends this. SIGTERM ends it too. It needs nothing of the service, only `xllamacpp` and the standard library.
"""

import importlib
import json
import os
import sys
from typing import Any

_NICENESS = 5  # whoever chats waits for this; whoever searches must not
_PROMPT_CACHE_MB = 64  # prompts of earlier requests; llama.cpp would take up to 8192
_ERRORS_ONLY = 1  # of llama.cpp's verbosities: warnings come with every request, and may quote it


def main() -> None:
    """Serve the model that stdin names until stdin ends."""
    config: dict[str, Any] = json.loads(sys.stdin.readline())
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever llama.cpp prints belongs in the log
    os.nice(_NICENESS)
    xllamacpp: Any = importlib.import_module("xllamacpp")
    try:
        server = xllamacpp.Server(_parameters(xllamacpp.CommonParams(), config))
    except RuntimeError as error:
        sys.exit(str(error))
    print(json.dumps({"address": server.listening_address}), file=answers, flush=True)
    sys.stdin.read()
    os._exit(0)  # at once: there is nothing to save, and a tidy end would wait for answers nobody reads


def _parameters(parameters: Any, config: dict[str, Any]) -> Any:
    """llama.cpp's parameters for `config`: nothing but its API, for nobody but the holder of the key."""
    parameters.model.path = config["model_path"]
    parameters.model_alias = {config["model"]}
    parameters.hostnames = ["127.0.0.1"]
    parameters.port = config["port"]
    parameters.reuse_port = True  # the owner holds the port, so that nobody else takes it during a restart
    parameters.api_keys = [config["api_key"]]
    parameters.cpuparams.n_threads = config["threads"]
    parameters.cpuparams_batch.n_threads = config["threads"]
    parameters.n_threads_http = config["connections"]
    parameters.n_parallel = config["slots"]
    parameters.n_ctx = config["slots"] * config["context_tokens"]  # divided evenly; capped at what the model has
    parameters.fit_params = False  # to the memory of a graphics card: loads the model twice to find out
    parameters.use_jinja = True
    parameters.cache_prompt = True
    parameters.cache_ram_mib = _PROMPT_CACHE_MB
    parameters.endpoint_metrics = True
    parameters.endpoint_slots = False
    parameters.ui = False
    parameters.cors_origins = ""  # no web page may call it
    parameters.cors_credentials = False
    parameters.verbosity = _ERRORS_ONLY
    return parameters


if __name__ == "__main__":
    main()
