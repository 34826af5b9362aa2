"""The model servers as deployments of Ray Serve, on the cluster that `RAY_ADDRESS` names, or the one on this machine.

    ray start --head --disable-usage-stats
    python -m serving.ray_app up [embedding] [runtime]    deploy, or deploy anew
    python -m serving.ray_app status                      what every replica serves
    python -m serving.ray_app switch                      have every replica look at the adapter registry now
    python -m serving.ray_app down [embedding] [runtime]

`embedding` and `runtime` are also what a configuration file of Ray Serve imports: `serving.ray_app:embedding`.
Without Ray this module can be imported, and says what is missing when it is used.
"""

import argparse
import json
import logging
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from serving.errors import ModelRefused
from serving.ray.deployments import LOGGING, NAMES, Name, application, open_app_of, registry_of
from serving.ray.settings import RaySettings, load_ray_settings
from serving.settings import SettingsError, load_settings

_PROXIES = {"every": "EveryNode", "head": "HeadOnly"}
_BALANCED = {"runtime_env": {"env_vars": {"RAY_SERVE_PROXY_PREFER_LOCAL_NODE_ROUTING": "0"}}}
"""For the controller, from whom proxies inherit it. A proxy prefers the replicas of its own node while they take
requests: where there is one proxy, all others would be idle."""
_ASK_S = 600.0
"""A replica that loads a large model answers only then."""


class _Refused(Exception):
    """What was asked for is not possible, in one line."""


def embedding(_: dict[str, Any] | None = None) -> Any:
    """The embedding deployment, by the environment of this process, as an application."""
    return _application("embedding", load_ray_settings())


def runtime(_: dict[str, Any] | None = None) -> Any:
    """The deployment of the unified runtime, by the environment of this process, as an application."""
    return _application("runtime", load_ray_settings())


def main(argv: Sequence[str] | None = None) -> int:
    """0: done. 1: a replica does not serve what the registry says. 2, after one line on stderr: not possible."""
    options = _flags(argv)
    try:
        settings = load_ray_settings()
        names: Sequence[Name] = getattr(options, "names", None) or NAMES
        if options.command == "up":
            for name in names:
                _application(name, settings)  # says what is wrong before anything is started
        _connect()
        match options.command:
            case "up":
                return _up(names, settings)
            case "down":
                return _down(names)
            case _:
                return _ask("look" if options.command == "switch" else "served", is_json=options.json)
    except (_Refused, SettingsError, ModelRefused) as error:
        print(f"{options.command}: {error}", file=sys.stderr)
        return 2


def _application(name: Name, settings: RaySettings) -> Any:
    if find_spec("ray") is None:
        raise _Refused("the package ray is not installed: make install-ray")
    registry_of(settings, getattr(settings, name)).choose()
    return application(name, settings, open_app_of(name), load_settings().concurrency)


def _connect() -> None:
    if find_spec("ray") is None:
        raise _Refused("the package ray is not installed: make install-ray")
    # Nothing is told to anybody unless it is asked for.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    ray: Any = import_module("ray")
    import_module("ray.serve")
    try:
        ray.init(address=os.environ.get("RAY_ADDRESS") or "auto", log_to_driver=False, logging_level="ERROR")
    except ConnectionError:
        where = os.environ.get("RAY_ADDRESS") or "on this machine"
        raise _Refused(
            f"no Ray cluster answers ({where}): start one with ray start --head --disable-usage-stats"
        ) from None
    logging.getLogger("ray.serve").setLevel(logging.WARNING)


def _up(names: Sequence[Name], settings: RaySettings) -> int:
    """Deploy and wait until every replica that has to be there answers."""
    serve: Any = import_module("ray.serve")
    http = {"host": settings.http_host, "port": settings.http_port}
    serve.start(
        proxy_location=_PROXIES[settings.proxies],
        http_options=http,
        logging_config=LOGGING,
        controller_options=_BALANCED if settings.proxies == "head" else None,
    )
    for name in names:
        try:
            serve.run(_application(name, settings), name=name, route_prefix=f"/{name}")
        except RuntimeError as error:
            raise _Refused(f"{name} does not start: {_last_line(error)}") from None
        print(f"http://{settings.http_host}:{settings.http_port}/{name}")
    return 0


def _down(names: Sequence[Name]) -> int:
    serve: Any = import_module("ray.serve")
    for name in names:
        serve.delete(name)
    return 0


def _ask(method: str, *, is_json: bool) -> int:
    """What every replica answers, as a table or one JSON document."""
    serve: Any = import_module("ray.serve")
    running: dict[str, Any] = serve.status().applications
    document: dict[str, Any] = {}
    for name in (name for name in NAMES if name in running):
        try:
            answers = serve.get_app_handle(name).broadcast(method).results(timeout_s=_ASK_S, return_exceptions=True)
        except (TimeoutError, serve.exceptions.RayServeException) as error:
            raise _Refused(f"{name}: no replica answers ({type(error).__name__})") from None
        replicas = [
            {"fault": f"does not answer ({type(each).__name__})"} if isinstance(each, Exception) else each
            for each in answers
        ]
        document[name] = {"status": str(running[name].status.value), "replicas": replicas}
    if not document:
        raise _Refused("nothing is deployed: python -m serving.ray_app up")
    if is_json:
        print(json.dumps(document, indent=2))
    else:
        for name, each in document.items():
            print(f"{name}: {each['status']}")
            for one in each["replicas"]:
                fault = f"  ({one['fault']})" if one["fault"] else ""
                print(f"  {one.get('replica', '?')}  {one.get('model', '?')}{fault}")
    return 0 if all(agree(each["replicas"]) for each in document.values()) else 1


def agree(replicas: Sequence[dict[str, Any]]) -> bool:
    """Whether all replicas of a deployment, of which there are some, serve the same model, the one they should."""
    models = {each.get("model") for each in replicas} | {each.get("wanted") for each in replicas}
    return len(models) == 1 and None not in models and not any(each["fault"] for each in replicas)


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


def _name(text: str) -> Name:
    if text not in NAMES:
        raise argparse.ArgumentTypeError(f"{text!r} is not one of {', '.join(NAMES)}")
    return text


def _flags(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m serving.ray_app",
        description="The model servers on a Ray cluster. Settings are the variables RAY_*, SERVE_* and MODEL__*.",
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for command, what in (("up", "deploy, or deploy anew"), ("down", "take away")):
        own = commands.add_parser(command, help=what)
        own.add_argument("names", nargs="*", type=_name, default=[], metavar="embedding|runtime", help="both")
    for command, what in (
        ("status", "what every replica serves"),
        ("switch", "have every replica look at the adapter registry now, and wait for it"),
    ):
        own = commands.add_parser(command, help=what)
        own.add_argument("--json", action="store_true", help="one JSON document")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
