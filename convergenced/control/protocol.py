"""The language of the control socket: JSON-RPC 2.0, one UTF-8 message a line.

Owns framing and error transport, and promises that a `ConvergenceError` raised in the daemon is
raised as the same class in the client. Both sides import this module, and the client starts often:
only cheap modules of the standard library may be imported here.

A request without an id is a notification: it is acted on and not answered. Batches are refused.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TypeAlias, cast

from convergenced.errors import ConvergenceError

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"

MAX_LINE = 1024 * 1024
"""Bytes in one request, its line end not counted. No request needs a hundredth of it."""

MAX_ANSWER = 8 * 1024 * 1024
"""Bytes in one answer: a status of some ten thousand projects."""

PARSE_ERROR = -32700
INVALID_REQUEST = -32600
METHOD_NOT_FOUND = -32601
INVALID_PARAMS = -32602
INTERNAL_ERROR = -32603
CONVERGENCE_ERROR = -32000
"""The code under which a `ConvergenceError` crosses, with its class, hint and exit code as data."""

RequestId: TypeAlias = "int | str | None"


@dataclass(frozen=True, slots=True)
class Request:
    """What a client asks. `id` None marks a notification."""

    id: RequestId
    method: str
    params: dict[str, Json]


@dataclass(frozen=True, slots=True)
class RpcError:
    """An error as it stands on the wire. `data` is None unless the code is `CONVERGENCE_ERROR`."""

    id: RequestId
    code: int
    message: str
    data: Json = None


@dataclass(frozen=True, slots=True)
class Result:
    """The answer to the request of that id."""

    id: RequestId
    value: Json


def parse_request(line: bytes) -> Request | RpcError:
    """The request on one line (with or without its line end), or the error to answer it with."""
    message = _parse_object(line, MAX_LINE)
    if isinstance(message, RpcError):
        return message
    id_ = message.get("id")
    if isinstance(id_, bool) or not isinstance(id_, int | str | None):
        return RpcError(None, INVALID_REQUEST, "the id must be a whole number or a string")
    method, params = message.get("method"), message.get("params", {})
    if message.get("jsonrpc") != "2.0" or not isinstance(method, str):
        return RpcError(id_, INVALID_REQUEST, 'a request needs "jsonrpc": "2.0" and a "method"')
    if not isinstance(params, dict):
        return RpcError(id_, INVALID_PARAMS, '"params" must be an object')
    return Request(id_, method, params)


def parse_answer(line: bytes) -> Result | RpcError:
    """The answer on one line; a line that is no answer comes back as a parse error."""
    message = _parse_object(line, MAX_ANSWER)
    if isinstance(message, RpcError):
        return message
    id_ = cast("RequestId", message.get("id"))
    if "result" in message:
        return Result(id_, message["result"])
    error = message.get("error")
    if not isinstance(error, dict):
        return RpcError(id_, PARSE_ERROR, "an answer holds a result or an error")
    code, text = error.get("code"), error.get("message")
    return RpcError(id_, code if isinstance(code, int) else INTERNAL_ERROR, str(text), error.get("data"))


def format_request(request: Request) -> bytes:
    """The request as a line, its line end included."""
    message: dict[str, Json] = {"jsonrpc": "2.0", "method": request.method, "params": request.params}
    if request.id is not None:
        message["id"] = request.id
    return _line(message)


def format_result(id_: RequestId, value: Json) -> bytes:
    """The answer as a line. One longer than `MAX_ANSWER` is replaced by an error that says so."""
    line = _line({"jsonrpc": "2.0", "id": id_, "result": value})
    if len(line) > MAX_ANSWER:
        return format_error(RpcError(id_, INTERNAL_ERROR, f"the answer is longer than {MAX_ANSWER} bytes"))
    return line


def format_error(error: RpcError) -> bytes:
    """The error as a line."""
    body: dict[str, Json] = {"code": error.code, "message": error.message}
    if error.data is not None:
        body["data"] = error.data
    return _line({"jsonrpc": "2.0", "id": error.id, "error": body})


def rpc_error(id_: RequestId, error: ConvergenceError) -> RpcError:
    """A `ConvergenceError` made ready to cross."""
    data: dict[str, Json] = {
        "type": type(error).__name__,
        "summary": error.summary,
        "hint": error.hint,
        "exit_code": error.exit_code,
    }
    return RpcError(id_, CONVERGENCE_ERROR, error.summary, data)


def raised_error(error: RpcError) -> ConvergenceError:
    """The error to raise on the client's side: of the class it had in the daemon.

    A class this version does not know (the daemon is newer) keeps its text and its exit code.
    """
    if error.code == METHOD_NOT_FOUND:
        return ConvergenceError(error.message, "the daemon may be of another version: restart it")
    if error.code != CONVERGENCE_ERROR or not isinstance(error.data, dict):
        return ConvergenceError(error.message, "the daemon's log says more: convergencectl log")
    name, hint, exit_code = error.data.get("type"), error.data.get("hint"), error.data.get("exit_code")
    raised = _classes().get(str(name), ConvergenceError)(
        str(error.data.get("summary", error.message)), str(hint or "")
    )
    if isinstance(exit_code, int):
        raised.exit_code = exit_code
    return raised


def _classes() -> dict[str, type[ConvergenceError]]:
    """Every error class by its name."""
    found: dict[str, type[ConvergenceError]] = {}
    pending: list[type[ConvergenceError]] = [ConvergenceError]
    while pending:
        one = pending.pop()
        found[one.__name__] = one
        pending.extend(one.__subclasses__())
    return found


def _parse_object(line: bytes, limit: int) -> dict[str, Json] | RpcError:
    if len(line) > limit + 1:
        return RpcError(None, INVALID_REQUEST, f"a message is at most {limit} bytes long")
    try:
        message = json.loads(line.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        return RpcError(None, PARSE_ERROR, f"not a JSON message: {error}")
    if not isinstance(message, dict):
        return RpcError(None, INVALID_REQUEST, "a message is one JSON object")
    return message


def _line(message: dict[str, Json]) -> bytes:
    # ASCII on the wire: paths may hold lone surrogates, which UTF-8 cannot carry and JSON escapes can.
    return json.dumps(message, separators=(",", ":")).encode("ascii") + b"\n"
