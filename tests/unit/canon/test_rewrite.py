"""The canonical form, case by case."""

from __future__ import annotations

import pytest

from convergenced.canon.rewrite import Rewriter
from convergenced.model import Anchors, Content
from tests.property.canon import machines
from tests.property.canon.machines import ANN, MAC

JSON, TEXT = Content.JSON, Content.TEXT


def canonical(data: bytes, content: Content = JSON, own: Anchors = ANN) -> bytes:
    return Rewriter(own).canonicalize(data, content)


def local(data: bytes, content: Content = JSON, own: Anchors = MAC) -> bytes:
    return Rewriter(own).localize(data, content)


@pytest.mark.parametrize("content", Content)
@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b"/home/ann", b"{{CC_HOME}}"),
        (b"/home/ann/", b"{{CC_HOME}}/"),
        (b"/home/ann/src/proj", b"{{CC_PROJECT_ROOT}}"),
        (b"/home/ann/src/proj/a.py", b"{{CC_PROJECT_ROOT}}/a.py"),
        (b"/home/ann/src/proj.", b"{{CC_PROJECT_ROOT}}."),
        (b"/home/ann/src/proj. And", b"{{CC_PROJECT_ROOT}}. And"),
        (b"/home/ann/src/proj.py", b"{{CC_HOME}}/src/proj.py"),
        (b"/home/ann/src/proj-2", b"{{CC_HOME}}/src/proj-2"),
        (b"/home/ann/src/proj_2", b"{{CC_HOME}}/src/proj_2"),
        (b"/home/ann/src/projx", b"{{CC_HOME}}/src/projx"),
        (b"/home/annex /home/ann2 /home/ann.b", b"/home/annex /home/ann2 /home/ann.b"),
        (b"x/home/ann", b"x/home/ann"),
        (b"9/home/ann", b"9/home/ann"),
        (b"_/home/ann", b"_{{CC_HOME}}"),
        (b"=/home/ann:/home/ann", b"={{CC_HOME}}:{{CC_HOME}}"),
        (b"//home/ann", b"/{{CC_HOME}}"),
        (b"/home/ann/home/ann", b"{{CC_HOME}}/home/ann"),
        (b"\xc3\xa9/home/ann", b"\xc3\xa9{{CC_HOME}}"),
        (b"/home/ann/.claude/projects/-home-ann-src-proj/memory", b"{{CC_PROJECT_CONTEXT_DIR}}/memory"),
        (b"/tmp/claude-0/-home-ann-src-proj/s/tasks/x", b"/tmp/claude-0/{{CC_ENCODED_DIR}}/s/tasks/x"),
        (b"-home-ann-src-proj-2", b"-home-ann-src-proj-2"),
        (b"{{CC_HOME}} {{CC_HOME_LIT}}", b"{{CC_HOME_LIT}} {{CC_HOME_LIT_LIT}}"),
        (b"{{CC_OTHER}} {{CC_HOME", b"{{CC_OTHER}} {{CC_HOME"),
        (b"{{CC_HOME}}/home/ann", b"{{CC_HOME_LIT}}{{CC_HOME}}"),
        (b"", b""),
    ],
)
def test_an_anchor_is_replaced_as_a_whole_path_prefix_only(
    content: Content, before: bytes, after: bytes
) -> None:
    assert canonical(before, content) == after
    assert local(after, content, ANN) == before


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (rb"\n/home/ann\n", rb"\n{{CC_HOME}}\n"),
        (rb"\\n/home/ann", rb"\\n/home/ann"),
        (rb"\\\n/home/ann", rb"\\\n{{CC_HOME}}"),
        (rb"\\/home/ann", rb"\\{{CC_HOME}}"),
        (rb"\q/home/ann", rb"\q/home/ann"),
        (rb"\u001b/home/ann\u001b[0m", rb"\u001b{{CC_HOME}}\u001b[0m"),
        (rb"\u00e9/home/ann", rb"\u00e9{{CC_HOME}}"),
        (rb"\u0041/home/ann", rb"\u0041/home/ann"),
        (rb"\u00/home/ann", rb"\u00/home/ann"),
        (rb"\ud800/home/ann\ud800", rb"\ud800{{CC_HOME}}\ud800"),
        (rb"/home/ann\u0041", rb"/home/ann\u0041"),
        (rb"/home/ann\u005f", rb"/home/ann\u005f"),
        (rb"/home/ann.\u0041", rb"/home/ann.\u0041"),
        (rb"/home/ann\u002e\u0041", rb"/home/ann\u002e\u0041"),
        (rb"/home/ann.\n", rb"{{CC_HOME}}.\n"),
        (rb"/home/ann\u002fx", rb"{{CC_HOME}}\u002fx"),
        (rb"/home/ann\\x", rb"{{CC_HOME}}\\x"),
        (rb"/home/ann\u00", rb"{{CC_HOME}}\u00"),
        (rb"\/home\/ann\/src\/proj\/x", rb"{{CC_PROJECT_ROOT}\u007d\/x"),
        (rb"\u002fhome\u002fann", rb"{{CC_HOME\u007d}"),
        (rb"\u002Fhome\u002Fann", rb"{{CC_HOME\u007d\u007d"),
        (rb"x\/home\/ann x\u002fhome\u002fann", rb"x\/home\/ann x\u002fhome\u002fann"),
        (rb"\/home/ann", rb"\/home/ann"),
        (rb"{{CC_HOME}\u007d", rb"{{CC_HOME_LIT}\u007d"),
        (rb"\u007b{CC_HOME}}", rb"\u007b{CC_HOME}}"),
        (rb"/home/an\u006e", rb"/home/ann"),
        (rb"/home/ann/src/pro\u006a", rb"{{CC_HOME}}/src/proj"),
        (rb'{"/home/ann":"/home/ann/src/proj"}', rb'{"{{CC_HOME}}":"{{CC_PROJECT_ROOT}}"}'),
    ],
)
def test_json_escapes_count_as_what_they_decode_to(before: bytes, after: bytes) -> None:
    assert canonical(before) == after
    assert local(after, own=ANN) == before


def test_every_style_of_slash_arrives_on_the_other_machine() -> None:
    data = rb"/home/ann \/home\/ann \u002fhome\u002fann \u002Fhome\u002Fann"
    assert local(canonical(data)) == data.replace(b"home", b"Users")


def test_another_machines_path_stays_that_path_in_json() -> None:
    stored = rb"/Users/ann/x /home/ann /Users/an\u006e -Users-ann-code-proj \/Users\/ann"
    here = local(stored)
    assert (
        here
        == rb"/Users/an\u006e/x /home/ann /Users/a\u006e\u006e -Users-ann-code-pro\u006a \/Users\/an\u006e"
    )
    assert canonical(here, own=MAC) == stored


def test_a_path_that_only_here_is_the_project_stays_below_home() -> None:
    stored = b"{{CC_HOME}}/code/proj/x {{CC_HOME}}/.claude/projects/{{CC_ENCODED_DIR}}"
    here = local(stored)
    assert here == rb"/Users/ann/code/pro\u006a/x /Users/ann/.claude/projects/-Users-ann-code-pro\u006a"
    assert canonical(here, own=MAC) == stored


def test_the_context_folder_of_another_configuration_is_recognized_piece_by_piece() -> None:
    stored = b"/etc/claude/projects/{{CC_ENCODED_DIR}}/x"
    here = local(stored, own=machines.ELSEWHERE)
    assert canonical(here, own=machines.ELSEWHERE) == stored


def test_a_spelling_as_deep_as_it_gets_is_left_alone() -> None:
    deepest = rb"/Users/a\u006e\u006e"
    assert local(deepest) == deepest
    assert canonical(deepest, own=MAC) == rb"/Users/an\u006e"


def test_home_and_project_in_one_folder_are_still_two_anchors() -> None:
    stored = b"{{CC_HOME}}/a {{CC_PROJECT_ROOT}}/b /home/dan/c"
    here = local(stored, own=machines.AT_HOME)
    assert here == rb"/home/da\u006e/a /home/dan/b /home/d\u0061\u006e/c"
    assert canonical(here, own=machines.AT_HOME) == stored


@pytest.mark.parametrize("home", [None, "/", "", "relative", "//"])
@pytest.mark.parametrize("content", Content)
def test_a_home_that_means_nothing_is_never_rewritten(home: str | None, content: Content) -> None:
    own = Anchors("linux", "/srv/app", "/cfg/projects/-srv-app", "-srv-app", home)
    data = b"/ /x relative {{CC_HOME}} /srv/app/"
    assert canonical(data, content, own) == b"/ /x relative {{CC_HOME}} {{CC_PROJECT_ROOT}}/"
    assert local(canonical(data, content, own), content, own) == data


@pytest.mark.parametrize("content", Content)
def test_without_a_single_usable_anchor_nothing_is_rewritten(content: Content) -> None:
    own = Anchors("linux", "/", "", "-", None)
    assert canonical(b"/ {{CC_HOME}} -", content, own) == b"/ {{CC_HOME}} -"
    assert local(b"/ {{CC_HOME}} -", content, own) == b"/ {{CC_HOME}} -"


def test_an_encoded_name_that_is_a_number_is_left_alone() -> None:
    own = Anchors("linux", "/0", "/h/.claude/projects/-0", "-0", "/h")
    assert canonical(b'{"n":-0,"p":"/0/x"}', own=own) == b'{"n":-0,"p":"{{CC_PROJECT_ROOT}}/x"}'


def test_a_trailing_slash_of_an_anchor_does_not_matter() -> None:
    own = Anchors("linux", "/srv/app/", "/cfg/projects/-srv-app", "-srv-app", "/home/x/")
    assert canonical(b"/srv/app/y /home/x/y", own=own) == b"{{CC_PROJECT_ROOT}}/y {{CC_HOME}}/y"


@pytest.mark.parametrize("content", Content)
def test_no_anchor_is_seen_right_behind_another(content: Content) -> None:
    data = "/home/日本/home/日本/home/日本".encode()
    stored = canonical(data, content, machines.JAPANESE)
    assert stored == "{{CC_HOME}}/home/日本{{CC_HOME}}".encode()
    assert local(stored, content, machines.JAPANESE) == data


def test_characters_that_json_must_escape_are_found_in_anchors() -> None:
    own = machines.machine('/home/o"neil/a\\b\x01', '/home/o"neil')
    data = rb'{"cwd":"/home/o\"neil/a\\b\u0001/x"}'
    assert canonical(data, own=own) == b'{"cwd":"{{CC_PROJECT_ROOT}}/x"}'
    assert canonical(b'/home/o"neil/a\\b\x01/x', TEXT, own) == b"{{CC_PROJECT_ROOT}}/x"


@pytest.mark.parametrize("tail", [0xDCFF, 0xD800, 0xDFFF, 0x1F600, 0x01, 0x7F])
@pytest.mark.parametrize("content", Content)
def test_a_path_of_odd_characters_round_trips(tail: int, content: Content) -> None:
    own = machines.machine("/srv/odd" + chr(tail), "/home/x")
    here = local(b"{{CC_PROJECT_ROOT}}/x", content, own)
    assert canonical(here, content, own) == b"{{CC_PROJECT_ROOT}}/x"
    stored = canonical(b"/srv/odd /srv/odd" + "\U0001f600".encode(), content, own)
    if content is JSON:
        assert canonical(local(stored, content, own), content, own) == stored


def test_a_path_that_holds_a_sentinel_round_trips() -> None:
    own = machines.machine("/srv/{{CC_HOME}}", "/home/x")
    data = b"/srv/{{CC_HOME}}/y {{CC_HOME}}"
    stored = canonical(data, own=own)
    assert stored == b"{{CC_PROJECT_ROOT}}/y {{CC_HOME_LIT}}"
    assert local(stored, own=own) == data


def test_every_byte_that_is_no_anchor_stays() -> None:
    rest = bytes(range(256)) * 2
    assert canonical(rest + b" /home/ann " + rest) == rest + b" {{CC_HOME}} " + rest


def test_a_sentinel_that_no_machine_wrote_is_localized_all_the_same() -> None:
    assert local(b"x{{CC_HOME}}y") == b"x/Users/anny"


def test_big_input_is_rewritten_in_pieces_and_whole() -> None:
    line = b'{"cwd":"/home/ann/src/proj","x":"' + b"y" * 1000 + b'"}\n'
    data = line * 300 + b'"torn /home/ann'
    stored = canonical(data)
    assert stored == data.replace(b"/home/ann/src/proj", b"{{CC_PROJECT_ROOT}}").replace(
        b"/home/ann", b"{{CC_HOME}}"
    )
    assert local(stored, own=ANN) == data


def test_one_awkward_line_does_not_change_its_neighbours() -> None:
    data = b"/home/ann 1\n" + rb"\\n/home/ann \\\n/home/ann 2" + b"\n/home/ann 3\n"
    assert canonical(data) == b"{{CC_HOME}} 1\n" + rb"\\n/home/ann \\\n{{CC_HOME}} 2" + b"\n{{CC_HOME}} 3\n"


@pytest.mark.parametrize("content", Content)
def test_a_long_run_without_a_line_end_streams_like_the_whole(content: Content) -> None:
    run = b"a/home/ann/b+/home/ann/9/home/ann=" * 9000
    rewriter = Rewriter(ANN)
    pieces = list(
        rewriter.canonicalize_chunks((run[at : at + 1000] for at in range(0, len(run), 1000)), content)
    )
    assert b"".join(pieces) == rewriter.canonicalize(run, content)
    assert content is JSON or len(pieces) > 1


def test_text_is_never_cut_inside_an_anchor_or_a_sentinel() -> None:
    rewriter = Rewriter(ANN)
    unit = b"+/home/ann/src/proj+{{CC_HOME_LIT_LIT}}+.+/home/ann.+"
    for shift in range(len(unit)):
        run = b"+" * shift + unit * 2600
        streamed = b"".join(rewriter.canonicalize_chunks([run, run], TEXT))
        assert streamed == rewriter.canonicalize(run + run, TEXT)


@pytest.mark.parametrize("run", [b"A" * 200_000, b"{{CC_HOME" + b"_LIT" * 50_000 + b"}}", b"/" * 200_000])
def test_text_that_cannot_be_cut_is_kept_together(run: bytes) -> None:
    rewriter = Rewriter(ANN)
    assert b"".join(rewriter.canonicalize_chunks([run, run], TEXT)) == rewriter.canonicalize(run + run, TEXT)


def test_an_empty_stream_is_empty() -> None:
    assert list(Rewriter(ANN).canonicalize_chunks([], JSON)) == []
    assert list(Rewriter(ANN).localize_chunks([b""], TEXT)) == []


def test_a_one_folder_root_and_its_encoded_name_are_told_apart() -> None:
    data = b"/workspace/a -workspace /root/.claude/projects/-workspace/x /root /workspaces"
    stored = canonical(data, own=machines.CONTAINER)
    assert stored == (
        b"{{CC_PROJECT_ROOT}}/a {{CC_ENCODED_DIR}} {{CC_PROJECT_CONTEXT_DIR}}/x {{CC_HOME}} /workspaces"
    )
    assert local(stored, own=machines.CONTAINER) == data


def test_an_encoded_name_that_does_not_look_like_its_folder_is_found() -> None:
    data = b"/my.data/proj/a -my-data-proj/b /home/eve"
    stored = canonical(data, own=machines.DOTTED)
    assert stored == b"{{CC_PROJECT_ROOT}}/a {{CC_ENCODED_DIR}}/b {{CC_HOME}}"
    assert local(stored, own=machines.DOTTED) == data
