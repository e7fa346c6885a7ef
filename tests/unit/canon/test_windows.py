"""A Windows participant beside POSIX ones."""

from __future__ import annotations

import pytest

from convergenced.canon.rewrite import Rewriter
from convergenced.model import Anchors, Content
from tests.property.canon.machines import ANN

ROOT = "C:\\Users\\Ann\\proj"
WIN = Anchors(
    "windows",
    ROOT,
    "C:\\Users\\Ann\\.claude\\projects\\C--Users-Ann-proj",
    "C--Users-Ann-proj",
    "C:\\Users\\Ann",
)
JSON, TEXT = Content.JSON, Content.TEXT


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (rb"C:\Users\Ann\proj\src\a.py", b"{{CC_PROJECT_ROOT}}/src/a.py"),
        (rb"c:/users/ann/proj/src", b"{{CC_PROJECT_ROOT}}/src"),
        (b"/c/Users/Ann/proj", b"{{CC_PROJECT_ROOT}}"),
        (rb"C:\Users\Ann\proj2\x", rb"{{CC_HOME}}/proj2/x"),
        (rb"C:\Users\Annex", rb"C:\Users\Annex"),
        (rb"xC:\Users\Ann", rb"xC:\Users\Ann"),
        (rb"C:\Users\Ann\a b", b"{{CC_HOME}}/a b"),
        (rb"C:\Users\Ann\.claude\projects\C--Users-Ann-proj\memory", b"{{CC_PROJECT_CONTEXT_DIR}}/memory"),
        (rb"D:\t\C--Users-Ann-proj\x", rb"D:\t\{{CC_ENCODED_DIR}}/x"),
        (b"{{CC_HOME}}", b"{{CC_HOME_LIT}}"),
    ],
)
def test_all_spellings_of_an_anchor_become_one(before: bytes, after: bytes) -> None:
    assert Rewriter(WIN).canonicalize(before, TEXT) == after


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (rb'{"cwd":"C:\\Users\\Ann\\proj\\src"}', b'{"cwd":"{{CC_PROJECT_ROOT}}/src"}'),
        (rb"\nC:\\Users\\Ann\n", rb"\n{{CC_HOME}}\n"),
        (rb"\\nC:\\Users\\Ann", rb"\\nC:\\Users\\Ann"),
        (rb"\\C:\\Users\\Ann\"", rb"\\{{CC_HOME}}\""),
        (rb"C:\\Users\\Ann\u0041", rb"C:\\Users\\Ann\u0041"),
    ],
)
def test_json_escapes_count_as_what_they_decode_to(before: bytes, after: bytes) -> None:
    assert Rewriter(WIN).canonicalize(before, JSON) == after


@pytest.mark.parametrize("content", Content)
def test_what_a_posix_machine_wrote_gets_backslashes_and_comes_back(content: Content) -> None:
    context = b"/home/ann/.claude/projects/-home-ann-src-proj"
    written = b"/home/ann/src/proj/a/b.py " + context + b"/memory/ /home/ann, {{CC_HOME}}"
    stored = Rewriter(ANN).canonicalize(written, content)
    there = Rewriter(WIN)
    here = there.localize(stored, content)
    slash = b"\\\\" if content is JSON else b"\\"
    assert here.startswith(slash.join((b"C:", b"Users", b"Ann", b"proj", b"a", b"b.py ")))
    assert here.endswith(slash.join((b"C:", b"Users", b"Ann, {{CC_HOME}}")))
    assert there.canonicalize(here, content) == stored
    assert there.is_reversible(here, content)


def test_a_spelling_that_would_not_come_back_is_told() -> None:
    assert not Rewriter(WIN).is_reversible(b"C:/Users/Ann/x", TEXT)
    assert Rewriter(WIN).is_reversible(b"D:/Users/Ann/x", TEXT)


def test_a_share_is_an_anchor_too() -> None:
    share = Anchors(
        "windows", "\\\\nas\\code\\proj", "C:\\c\\projects\\--nas-code-proj", "--nas-code-proj", "C:\\"
    )
    rewriter = Rewriter(share)
    assert rewriter.canonicalize(rb"\\nas\code\proj\x C:\y", TEXT) == rb"{{CC_PROJECT_ROOT}}/x C:\y"
    assert rewriter.localize(b"{{CC_PROJECT_ROOT}}/x", JSON) == rb"\\\\nas\\code\\proj\\x"


def test_signed_thinking_stays() -> None:
    line = rb'{"type":"thinking","thinking":"C:\\Users\\Ann","signature":"x"}'
    assert Rewriter(WIN).canonicalize(line, JSON) == line


@pytest.mark.parametrize("content", Content)
def test_a_stream_gives_the_same_as_the_whole(content: Content) -> None:
    text = rb"C:\Users\Ann\proj\a.py: x" + b"\n"
    whole = (text.replace(b"\\", b"\\\\") if content is JSON else text) * 6000
    rewriter = Rewriter(WIN)
    pieces = list(
        rewriter.canonicalize_chunks((whole[at : at + 999] for at in range(0, len(whole), 999)), content)
    )
    assert len(pieces) > 1
    assert b"".join(pieces) == rewriter.canonicalize(whole, content)
