"""`embed-service worker`: runs background jobs."""

import asyncio
import signal
from typing import Annotated

import typer
from prometheus_client import start_http_server

from app.logs import configure_logs
from app.settings import Settings, load_settings_or_exit
from app.wiring_jobs import open_worker


def worker(
    concurrency: Annotated[int, typer.Option(min=1, max=64, help="Most jobs at a time.")] = 2,
    metrics_port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Serve this process's /metrics on HOST and this port.")
    ] = None,
) -> None:
    """Run background jobs until SIGTERM or Ctrl-C; as many of these as there is work for."""
    settings = load_settings_or_exit()
    configure_logs(settings.log_dir, settings.log_level)
    if metrics_port is not None:
        start_http_server(metrics_port, settings.host)
    asyncio.run(_work(settings, concurrency))


async def _work(settings: Settings, concurrency: int) -> None:
    async with open_worker(settings, concurrency) as opened:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, opened.stop)
        await opened.run()
