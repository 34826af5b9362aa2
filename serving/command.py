"""Start a server from the command line: flags, the port, the model, then requests."""

import argparse
import signal
import socket
import sys
from collections.abc import Sequence
from functools import partial
from typing import Any

import uvicorn
from fastapi import FastAPI

from serving.backends import open_backend
from serving.errors import ModelRefused
from serving.logs import configure_logs
from serving.main import create_app
from serving.settings import SettingsError, load_settings

STOP_TIMEOUT_S = 120
"""How long requests that were accepted may take after SIGTERM."""


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until told to stop; 2, after one line on stderr, when that is not possible."""
    configure_logs()
    try:
        settings = load_settings(**_flags(argv))
        with listening(settings.host, settings.port, "SERVE_HOST") as listener:
            app = create_app(partial(open_backend, settings), settings)
            app.state.model.load()
            print(f"serving {settings.model} on http://{settings.host}:{settings.port}", file=sys.stderr)
            serve(app, listener)
    except (SettingsError, ModelRefused, OSError) as error:
        print(f"cannot start: {error}", file=sys.stderr)
        return 2
    return 0


def serve(app: FastAPI, listener: socket.socket) -> None:
    """Serve `app` until SIGTERM or SIGINT; then answer what was accepted."""
    config = uvicorn.Config(
        app, log_config=None, access_log=False, server_header=False, timeout_graceful_shutdown=STOP_TIMEOUT_S
    )
    for each in (signal.SIGTERM, signal.SIGINT):
        # uvicorn repeats the signal that stopped it once it has stopped; by then it means nothing.
        signal.signal(each, signal.SIG_IGN)
    uvicorn.Server(config).run(sockets=[listener])


def _flags(argv: Sequence[str] | None) -> dict[str, Any]:
    """The settings given as flags, by the names of their fields."""
    parser = argparse.ArgumentParser(
        prog="serve_embedding_model.py",
        description="Serve the embedding model or cross-encoder in a folder. Flags win over SERVE_* variables.",
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
    )
    parser.add_argument("--model", metavar="DIR", help="a sentence-transformers, ONNX or OpenVINO folder")
    parser.add_argument("--port", help="8000")
    parser.add_argument("--host", help="127.0.0.1")
    parser.add_argument("--device", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--backend", help="auto, onnx, openvino or sentence-transformers")
    parser.add_argument("--concurrency", help="most calls that take turns at the model; others wait")
    parser.add_argument("--batch-size", help="most texts of one run of the model")
    parser.add_argument("--threads", help="cores that one run uses; all of them")
    parser.add_argument("--normalize", action="store_true", help="vectors of unit length unless a request says no")
    return vars(parser.parse_args(argv))


def listening(host: str, port: int, variable: str) -> socket.socket:
    """A socket bound to the address, on which nobody is served yet. Raises OSError in one line; `variable` is what
    the host was named by."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind)
    except OSError as error:
        raise OSError(f"{variable}={host} is no address: {error.strerror}") from None
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        listener.close()
        raise OSError(f"port {port} of {host} cannot be used: {error.strerror}") from None
    return listener
