"""A server on this machine that whoever tests talks to: it closes at once, and says nothing of a client that left."""

from http.server import ThreadingHTTPServer
from typing import Any


class QuietServer(ThreadingHTTPServer):
    """What other tests read on this process's error output is not disturbed by who hung up."""

    request_queue_size = 128
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Nothing."""
