"""What the server beneath answers by itself, in the shape of every other error."""

from uuid import uuid4

import structlog
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from app.api.errors import problem

log = structlog.get_logger(__name__)


class ProblemProtocol(HttpToolsProtocol):
    """uvicorn's HTTP/1.1, whose answer to what is no HTTP is a problem with an id, too."""

    def send_400_response(self, msg: str) -> None:
        """Answer and hang up; where one request ends and the next begins cannot be known any more."""
        request_id = uuid4().hex
        log.info("request_unreadable", request_id=request_id)
        answer = problem(request_id, 400, "bad-request", "Bad request", "this is not HTTP/1.1")
        answer.headers["X-Request-ID"] = request_id
        answer.headers["Connection"] = "close"
        head = b"".join(name + b": " + value + b"\r\n" for name, value in answer.raw_headers)
        self.transport.write(b"HTTP/1.1 400 Bad Request\r\n" + head + b"\r\n" + bytes(answer.body))
        self.transport.close()
