"""Says hello from Python, on WASI 0.2."""

import os

from componentize_py_types import Ok
from wit_world import exports
from wit_world.imports.types import (
    Fields,
    IncomingRequest,
    OutgoingBody,
    OutgoingResponse,
    ResponseOutparam,
)


class IncomingHandler(exports.IncomingHandler):
    """The name is the interface's: componentize-py finds the class by it."""

    def handle(self, request: IncomingRequest, response_out: ResponseOutparam) -> None:
        greeting = os.environ.get("GREETING", "Hello from Python")
        text(response_out, 200, f"{greeting}, you asked for {request.path_with_query()}\n")


def text(response_out: ResponseOutparam, status: int, content: str) -> None:
    """Answers with plain text."""
    octets = content.encode()
    headers = Fields.from_list(
        [
            ("content-type", b"text/plain; charset=utf-8"),
            ("content-length", str(len(octets)).encode()),
        ]
    )
    response = OutgoingResponse(headers)
    response.set_status_code(status)
    body = response.body()
    # The head goes out here; the body follows, and `finish` says that it is complete.
    ResponseOutparam.set(response_out, Ok(response))
    with body.write() as stream:
        for start in range(0, len(octets), 4096):
            stream.blocking_write_and_flush(octets[start : start + 4096])
    OutgoingBody.finish(body, None)
