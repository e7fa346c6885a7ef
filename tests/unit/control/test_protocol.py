from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convergenced import errors
from convergenced.control import protocol
from convergenced.control.protocol import (
    MAX_ANSWER,
    MAX_LINE,
    Json,
    Request,
    Result,
    RpcError,
    format_error,
    format_request,
    format_result,
    parse_answer,
    parse_request,
    raised_error,
    rpc_error,
)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def code_of(line: bytes) -> int:
    answer = parse_request(line)
    assert isinstance(answer, RpcError)
    return answer.code


@given(st.integers(0, 2**40) | st.text(), st.text(), st.dictionaries(st.text(), JSON, max_size=4))
def test_a_request_crosses_unchanged_in_one_line(
    id_: int | str, method: str, params: dict[str, Json]
) -> None:
    line = format_request(Request(id_, method, params))
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert parse_request(line) == Request(id_, method, params)


@given(JSON)
def test_a_result_crosses_unchanged_in_one_line(value: Json) -> None:
    line = format_result(7, value)
    assert line.count(b"\n") == 1
    assert parse_answer(line) == Result(7, value)


def test_a_path_with_undecodable_bytes_crosses() -> None:
    path = b"/home/ann/\xff\xfe".decode("utf-8", "surrogateescape")
    answer = parse_answer(format_result(1, path))
    assert isinstance(answer, Result)
    assert answer.value == path


@given(st.binary(max_size=200))
def test_no_bytes_at_all_make_the_parsers_raise(line: bytes) -> None:
    parse_request(line)
    parse_answer(line)


@pytest.mark.parametrize(
    ("line", "code"),
    [
        (b"", protocol.PARSE_ERROR),
        (b"{", protocol.PARSE_ERROR),
        (b"\xff\xfe", protocol.PARSE_ERROR),
        (b"[" * 5000, protocol.PARSE_ERROR),
        (b"[]", protocol.INVALID_REQUEST),
        (b"7", protocol.INVALID_REQUEST),
        (b'{"id":1,"method":"ping"}', protocol.INVALID_REQUEST),
        (b'{"jsonrpc":"2.0","id":1}', protocol.INVALID_REQUEST),
        (b'{"jsonrpc":"2.0","id":1,"method":3}', protocol.INVALID_REQUEST),
        (b'{"jsonrpc":"2.0","id":true,"method":"ping"}', protocol.INVALID_REQUEST),
        (b'{"jsonrpc":"2.0","id":[1],"method":"ping"}', protocol.INVALID_REQUEST),
        (b'{"jsonrpc":"2.0","id":1,"method":"ping","params":[1]}', protocol.INVALID_PARAMS),
        (b'"' + b"a" * (MAX_LINE + 1) + b'"', protocol.INVALID_REQUEST),
    ],
)
def test_a_wrong_request_is_told_what_is_wrong(line: bytes, code: int) -> None:
    assert code_of(line) == code


def test_the_error_for_a_wrong_request_carries_its_id() -> None:
    answer = parse_request(b'{"jsonrpc":"2.0","id":"x","method":"ping","params":7}')
    assert isinstance(answer, RpcError)
    assert answer.id == "x"


def test_a_request_without_an_id_is_a_notification() -> None:
    assert parse_request(b'{"jsonrpc":"2.0","method":"ping"}') == Request(None, "ping", {})
    assert "id" not in json.loads(format_request(Request(None, "ping", {})))


def test_the_longest_line_is_still_taken() -> None:
    head, tail = b'{"jsonrpc":"2.0","id":1,"method":"', b'"}'
    line = head + b"m" * (MAX_LINE - len(head) - len(tail)) + tail
    assert len(line) == MAX_LINE
    assert isinstance(parse_request(line + b"\n"), Request)


def test_an_answer_that_is_too_long_becomes_an_error() -> None:
    answer = parse_answer(format_result(1, "x" * MAX_ANSWER))
    assert isinstance(answer, RpcError)
    assert answer.id == 1


def every_error_class() -> list[type[errors.ConvergenceError]]:
    found = [one for one in vars(errors).values() if isinstance(one, type)]
    return [one for one in found if issubclass(one, errors.ConvergenceError)]


@pytest.mark.parametrize("kind", every_error_class())
def test_an_error_is_raised_again_as_the_same_class(kind: type[errors.ConvergenceError]) -> None:
    crossed = parse_answer(format_error(rpc_error(3, kind("what happened", "what to do"))))
    assert isinstance(crossed, RpcError)
    raised = raised_error(crossed)
    assert type(raised) is kind
    assert (raised.summary, raised.hint, raised.exit_code) == ("what happened", "what to do", kind.exit_code)


def test_an_error_class_of_a_newer_daemon_keeps_its_words_and_its_exit_code() -> None:
    data: dict[str, Json] = {"type": "BrandNewError", "summary": "s", "hint": "h", "exit_code": 42}
    raised = raised_error(RpcError(1, protocol.CONVERGENCE_ERROR, "s", data))
    assert type(raised) is errors.ConvergenceError
    assert (raised.summary, raised.hint, raised.exit_code) == ("s", "h", 42)
    assert errors.ConvergenceError.exit_code == 1


def test_an_unknown_method_points_at_the_version() -> None:
    assert "version" in raised_error(RpcError(1, protocol.METHOD_NOT_FOUND, "no method x")).hint


@pytest.mark.parametrize("line", [b"rubbish", b"[]", b'{"id":1}', b'{"id":1,"error":"bad"}'])
def test_an_answer_that_is_none_is_an_error(line: bytes) -> None:
    assert isinstance(parse_answer(line), RpcError)
