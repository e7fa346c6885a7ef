"""A Messages API on the loopback interface, over real HTTP, which answers as a test says.

    with MessagesApi(merging("# Notes\n")) as api:
        environ = api.environ          # ANTHROPIC_BASE_URL and a key
        ...
    api.requests[0].text               # what was asked

A script is a function of what is asked; it may keep count by itself.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

KEY = "test-key-" + "of-nobody"


@dataclass(frozen=True)
class Asked:
    """One request as it came."""

    path: str
    headers: Mapping[str, str]
    raw: bytes

    @property
    def body(self) -> dict[str, Any]:
        """The JSON that was sent."""
        body = json.loads(self.raw)
        assert isinstance(body, dict)
        return body

    @property
    def key(self) -> str:
        """The key or token that came with it."""
        bearer = self.headers.get("authorization", "").removeprefix("Bearer ")
        return bearer or self.headers.get("x-api-key", "")

    @property
    def system(self) -> str:
        """The system prompt."""
        return _plain(self.body.get("system", ""))

    @property
    def text(self) -> str:
        """What the user's messages say."""
        return "\n".join(_plain(message["content"]) for message in self.body["messages"])

    @property
    def schema(self) -> dict[str, Any]:
        """The schema of the answer; empty where none was asked for."""
        form = self.body.get("output_config", {}).get("format", {})
        found = form.get("schema") or (self.form or {}).get("input_schema", {})
        assert isinstance(found, dict)
        return found

    @property
    def tools(self) -> list[dict[str, Any]]:
        """The tools that the model may use."""
        return list(self.body.get("tools", []))

    @property
    def form(self) -> dict[str, Any] | None:
        """The tool with which Claude Code has an answer given in a shape."""
        return next((tool for tool in self.tools if tool["name"] == "StructuredOutput"), None)

    @property
    def is_critic(self) -> bool:
        """Whether this asks for claims, not for a document."""
        return "claims" in self.schema.get("properties", {})


@dataclass(frozen=True)
class Says:
    """An answer: a text, or anything else as JSON, in the form that was sent along, if one was.

    `breaks_off` ends the connection in the middle of it.
    """

    value: Any
    stop: str = "end_turn"
    asked_tokens: int = 1000
    answered_tokens: int = 100
    breaks_off: bool = False
    form: str = ""
    """The tool that it is said to, whether there is one or not; empty: the form that was sent along."""


@dataclass(frozen=True)
class Refuses:
    """An error of the API; `retry_after` are seconds (0 would be the client's own choice)."""

    status: int
    kind: str = "api_error"
    message: str = "no"
    retry_after: str = "0.001"
    in_stream: bool = False
    """Whether the answer begins well, and the error comes in its middle."""


@dataclass(frozen=True)
class Hangs:
    """No answer, until the API is closed."""


Reply = Says | Refuses | Hangs
Script = Callable[[Asked], Reply]


def merging(
    document: str | Callable[[Asked], str],
    contradictions: Sequence[tuple[str, str]] = (),
    claims: Sequence[tuple[str, str]] = (),
) -> Script:
    """Answers each merge with the document and its contradictions, each critic call with the claims.

    Contradictions are pairs of quote and description, claims of quote and claim.
    """

    def script(asked: Asked) -> Reply:
        if asked.is_critic:
            return Says({"claims": [{"quote": quote, "claim": claim} for quote, claim in claims]})
        return Says(
            {
                "document": document if isinstance(document, str) else document(asked),
                "contradictions": [{"quote": quote, "description": text} for quote, text in contradictions],
            }
        )

    return script


def in_turn(*replies: Reply) -> Script:
    """Answers with each in its turn; the last one is said again."""
    left = iter(replies[:-1])
    return lambda _asked: next(left, replies[-1])


class MessagesApi:
    """The server, for a `with`. `requests` are all that came, in their order."""

    def __init__(self, script: Script) -> None:
        self._script = script
        self._came = threading.Condition()
        self._closing = threading.Event()
        self.requests: list[Asked] = []
        api = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                api._handle(self)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (its name there)
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    @property
    def url(self) -> str:
        """Its address, for `ANTHROPIC_BASE_URL`."""
        return f"http://127.0.0.1:{self._server.server_port}"

    @property
    def environ(self) -> dict[str, str]:
        """What leads a client here, past any proxy."""
        return {"ANTHROPIC_BASE_URL": self.url, "ANTHROPIC_API_KEY": KEY, "NO_PROXY": "127.0.0.1"}

    @property
    def sent(self) -> bytes:
        """All that was ever sent here, to look for what should not be in it."""
        return b"\n".join(asked.raw for asked in self.requests)

    def wait_for(self, requests: int, timeout: float = 60.0) -> None:
        """Waits until so many requests came."""
        with self._came:
            assert self._came.wait_for(lambda: len(self.requests) >= requests, timeout), "nobody asked"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _handle(self, handler: BaseHTTPRequestHandler) -> None:
        raw = handler.rfile.read(int(handler.headers.get("Content-Length", 0)))
        asked = Asked(handler.path, {name.lower(): value for name, value in handler.headers.items()}, raw)
        with self._came:
            self.requests.append(asked)
            self._came.notify_all()
        if asked.path.partition("?")[0] != "/v1/messages":
            _send(handler, 404, _error("not_found_error", f"no such page: {asked.path}"))
            return
        reply = self._script(asked)
        with suppress(OSError):  # a client that is gone
            match reply:
                case Hangs():
                    handler.close_connection = True
                    self._closing.wait()
                case Refuses(in_stream=False):
                    _send(handler, reply.status, _error(reply.kind, reply.message), reply.retry_after)
                case _ if asked.body.get("stream"):
                    _stream(handler, asked, reply)
                case Says():
                    _send_whole(handler, asked, reply)
                case Refuses():
                    _send(handler, reply.status, _error(reply.kind, reply.message), reply.retry_after)


def _send_whole(handler: BaseHTTPRequestHandler, asked: Asked, reply: Says) -> None:
    message = _message(asked, reply)
    message["content"] = [{"type": "text", "text": _text_of(reply)}]
    message["stop_reason"] = reply.stop
    message["usage"]["output_tokens"] = reply.answered_tokens
    data = json.dumps(message).encode()
    _send(handler, 200, data[: len(data) // 2] if reply.breaks_off else data, length=len(data))


def _stream(handler: BaseHTTPRequestHandler, asked: Asked, reply: Says | Refuses) -> None:
    handler.send_response(200)
    handler.send_header("Content-Type", "text/event-stream")
    handler.send_header("Connection", "close")
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()
    handler.close_connection = True
    for event in _events(asked, reply):
        data = f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode()
        handler.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
    if isinstance(reply, Refuses) or not reply.breaks_off:
        handler.wfile.write(b"0\r\n\r\n")


def _events(asked: Asked, reply: Says | Refuses) -> Iterator[dict[str, Any]]:
    said = reply if isinstance(reply, Says) else Says("{")
    text = _text_of(said)
    block: dict[str, Any] = {"type": "text", "text": ""}
    kind, field, stop = "text_delta", "text", said.stop
    name = said.form or (asked.form or {}).get("name")
    if name and not isinstance(said.value, str):
        block = {"type": "tool_use", "id": "toolu_1", "name": name, "input": {}}
        kind, field, stop = "input_json_delta", "partial_json", "tool_use" if stop == "end_turn" else stop
    yield {"type": "message_start", "message": _message(asked, said)}
    yield {"type": "content_block_start", "index": 0, "content_block": block}
    half = len(text) // 2
    yield {"type": "content_block_delta", "index": 0, "delta": {"type": kind, field: text[:half]}}
    if isinstance(reply, Refuses):
        yield {"type": "error", "error": {"type": reply.kind, "message": reply.message}}
        return
    if reply.breaks_off:
        return
    yield {"type": "ping"}
    yield {"type": "content_block_delta", "index": 0, "delta": {"type": kind, field: text[half:]}}
    yield {"type": "content_block_stop", "index": 0}
    yield {
        "type": "message_delta",
        "delta": {"stop_reason": stop, "stop_sequence": None},
        "usage": {"output_tokens": reply.answered_tokens},
    }
    yield {"type": "message_stop"}


def _message(asked: Asked, reply: Says) -> dict[str, Any]:
    return {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": asked.body["model"],
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": {"input_tokens": reply.asked_tokens, "output_tokens": 1},
    }


def _text_of(reply: Says) -> str:
    return reply.value if isinstance(reply.value, str) else json.dumps(reply.value)


def _error(kind: str, message: str) -> bytes:
    return json.dumps({"type": "error", "error": {"type": kind, "message": message}}).encode()


def _send(
    handler: BaseHTTPRequestHandler,
    status: int,
    data: bytes,
    retry_after: str | None = None,
    length: int | None = None,
) -> None:
    handler.send_response(status)
    handler.send_header("Content-Type", "application/json")
    handler.send_header("Content-Length", str(len(data) if length is None else length))
    if retry_after is not None:
        handler.send_header("Retry-After", retry_after)
    handler.send_header("Connection", "close")
    handler.end_headers()
    handler.close_connection = True
    handler.wfile.write(data)


def _plain(content: Any) -> str:
    """The text of a prompt, which is one or a list of blocks."""
    if isinstance(content, str):
        return content
    return "\n".join(block["text"] for block in content if block.get("type") == "text")
