"""Joining a Ray cluster, or starting one of this machine alone, and what every job says to Ray."""

import logging
import os
import secrets
import socket
import sys
from collections.abc import Generator
from contextlib import contextmanager, redirect_stdout
from importlib import import_module
from importlib.util import find_spec
from typing import Any
from urllib.parse import urlsplit

from app.domain.errors import DomainError

LOCAL_STORE_BYTES = 256 * 2**20
"""Memory that nodes hand blocks on through, where the cluster is started here."""

STORE_SHARE = 0.25
"""Of the cluster's object store, for the blocks of one job: reading waits where writing does not keep up."""


CORES = 0.5
"""What Ray sets aside for a process that computes, which uses a core. So those of a lost node fit on the others, and
their work need not wait for a new node."""

_LISTENING_S = 5.0


class ClusterUnavailable(DomainError):
    """There is no Ray, or no cluster at the address; `str(error)` says what to do."""


class JobFailed(DomainError):
    """A step failed for good; `str(error)` says which and why."""


def ray_module(name: str = "ray") -> Any:
    """Ray or a module of it. Raises ClusterUnavailable where it is not installed."""
    if find_spec("ray") is None:
        raise ClusterUnavailable("the package ray is not installed: make install-ray")
    return import_module(name)


@contextmanager
def joined(address: str, workers: int | None) -> Generator[int]:
    """Be part of a cluster until the block ends; the number of workers that suits it, `workers` where given.

    `address`: `local` for a cluster of this process's own, `auto` for the one on this machine, or where one is
    (`host:port`, `ray://host:port`). Raises ClusterUnavailable.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is told to anybody unless it is asked for
    if address == "local" and "RAY_AUTH_MODE" not in os.environ:
        # A secret for this cluster alone. Ray would write one into the home directory, and every cluster that is
        # started on this machine afterwards would ask for it.
        os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    ray = ray_module()
    quiet = {"log_to_driver": False, "logging_level": "ERROR"}
    try:
        if address == "local":
            cores = workers or len(os.sched_getaffinity(0))
            ray.init(
                address="local",
                num_cpus=cores,
                object_store_memory=LOCAL_STORE_BYTES,
                include_dashboard=False,
                **quiet,
            )
        else:
            _look_for(address)
            ray.init(address=address, **quiet)
    except (OSError, ValueError, RuntimeError, ray.exceptions.RayError) as error:
        raise ClusterUnavailable(
            f"no Ray cluster answers at {address} ({_last_line(error)}): ray start --head --disable-usage-stats, "
            "or --address local"
        ) from None
    with redirect_stdout(sys.stderr):  # Ray prints there that a node is lost; it is for the job's result alone
        try:
            _settle_context()
            yield workers or max(1, int(ray.cluster_resources().get("CPU", 1)))
        finally:
            ray.shutdown()


def _look_for(address: str) -> None:
    """Raise OSError where nobody listens at HOST:PORT, which Ray would try for minutes."""
    where = urlsplit(address if "://" in address else f"//{address}")
    if where.hostname and where.port:
        socket.create_connection((where.hostname, where.port), timeout=_LISTENING_S).close()


def _settle_context() -> None:
    """How jobs of this process run: bounded memory, blocks in their order, no bars but ours."""
    data, ray = ray_module("ray.data"), ray_module()
    context = data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # a failure is told once, by `cause_of`
    store = ray.cluster_resources().get("object_store_memory", LOCAL_STORE_BYTES)
    context.execution_options.resource_limits = data.ExecutionResources.for_limits(
        object_store_memory=STORE_SHARE * store
    )


class Starts:
    """An actor that counts. It is here so that its process loads next to nothing."""

    def __init__(self) -> None:
        self._count = 0

    def note(self) -> None:
        """One more."""
        self._count += 1

    def count(self) -> int:
        """How many there were."""
        return self._count


def cause_of(error: BaseException) -> DomainError:
    """What a failed job says, in one line: the domain's own error where a step raised one."""
    innermost = error
    while not isinstance(innermost, DomainError):
        inner = getattr(innermost, "cause", None) or innermost.__cause__
        if not isinstance(inner, BaseException):
            return JobFailed(f"the job was ended by {type(innermost).__name__}: {_last_line(innermost)}")
        innermost = inner
    return innermost


def _last_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
