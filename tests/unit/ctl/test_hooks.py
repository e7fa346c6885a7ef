"""Our hooks in settings.json: in and out again without touching a byte of the rest."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convergenced.errors import UsageError
from ctl import hooks
from tests.unit.canon.written import SPACE, written

CALL = hooks.call_of("/opt/con vergence/bin/python", None)
OTHER = hooks.call_of("/elsewhere/python3", "/home/ann/conv")
THEIRS: dict[str, Any] = {"matcher": "", "hooks": [{"type": "command", "command": "say done"}]}

PLAIN = st.none() | st.booleans() | st.integers(-5, 10**20) | st.floats(allow_nan=False, allow_infinity=False)
WORDS = st.text(max_size=6)

VALUES = st.recursive(
    PLAIN | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.lists(st.tuples(WORDS, inner), max_size=3).map(tuple),
    max_leaves=6,
)
GROUPS = st.lists(
    st.just((("hooks", [(("type", "command"), ("command", "say done"))]),)) | VALUES, max_size=3
)
EVENTS = st.lists(st.tuples(st.sampled_from(["Stop", "SessionStart", "PreToolUse"]), GROUPS), max_size=4)
SETTINGS = st.lists(
    st.tuples(WORDS, VALUES).filter(lambda pair: pair[0] != "hooks")
    | st.tuples(st.just("hooks"), EVENTS.map(tuple)),
    max_size=4,
).map(tuple)


@given(st.data())
def test_install_and_uninstall_give_the_file_back_byte_for_byte(data: st.DataObject) -> None:
    value = data.draw(SETTINGS)
    text = data.draw(SPACE) + data.draw(written(value)) + data.draw(SPACE)
    installed = hooks.install(text, CALL, "settings.json")
    assert {hooks.state_of(hooks.find(installed), event, CALL) for event in hooks.EVENTS} == {"installed"}
    assert hooks.install(installed, CALL, "settings.json") == installed
    assert hooks.uninstall(installed, "settings.json") == text
    moved = hooks.install(installed, OTHER, "settings.json")
    assert hooks.state_of(hooks.find(moved), "Stop", CALL) == "elsewhere"
    assert hooks.uninstall(moved, "settings.json") == text


@given(st.data())
def test_what_the_client_reads_is_what_was_there_and_ours(data: st.DataObject) -> None:
    text = data.draw(written(data.draw(SETTINGS)))
    before, after = json.loads(text), json.loads(hooks.install(text, CALL, "settings.json"))
    for event in hooks.EVENTS:
        *others, ours = after["hooks"][event]
        assert others == before.get("hooks", {}).get(event, [])
        (command,) = ours["hooks"]
        assert command["command"].startswith(CALL)
        assert command["type"] == "command"
        assert command["timeout"] == hooks.TIMEOUT
    for key, value in before.items():
        if key != "hooks":
            assert after[key] == value


def test_a_file_that_was_made_for_the_hooks_goes_with_them() -> None:
    installed = hooks.install(None, CALL, "settings.json")
    assert installed.endswith("}\n")
    assert hooks.uninstall(installed, "settings.json") is None
    assert hooks.uninstall(json.dumps(json.loads(installed), indent=4), "settings.json") is None
    used = json.dumps({"model": "opus"} | json.loads(installed), indent=2)
    assert json.loads(hooks.uninstall(used, "settings.json") or "") == {"model": "opus"}


@pytest.mark.parametrize("text", ["{}", "{ }\n", "{\n}\n", '{"hooks":{}}', '{"hooks": {"Stop": []}}'])
def test_what_is_empty_stays_as_empty_as_it_was(text: str) -> None:
    assert hooks.uninstall(hooks.install(text, CALL, "settings.json"), "settings.json") == text


def test_it_looks_as_if_a_person_had_written_it() -> None:
    stop = '        "Stop": [\n            {"hooks": []}\n        ]\n'
    text = f'{{\n    "model": "opus",\n    "hooks": {{\n{stop}    }}\n}}\n'
    installed = hooks.install(text, CALL, "settings.json")
    command = f"{CALL} # convergencectl hook install"
    group = {"hooks": [{"type": "command", "command": command, "timeout": hooks.TIMEOUT}]}
    made = {"hooks": [{**group["hooks"][0], "command": f"{command} (made SessionStart)"}]}
    tree = {"model": "opus", "hooks": {"Stop": [{"hooks": []}, group], "SessionStart": [made]}}
    spelled = json.dumps(tree, indent=4)
    assert (
        installed == spelled.replace('{\n                "hooks": []\n            }', '{"hooks": []}') + "\n"
    )


def test_lines_end_as_the_others_do() -> None:
    installed = hooks.install('{\r\n\t"model": "opus"\r\n}\r\n', CALL, "settings.json")
    assert installed.count("\n") == installed.count("\r\n")
    assert '\r\n\t"hooks": {\r\n\t\t"Stop": [\r\n' in installed


def test_only_ours_are_taken_out_after_others_were_added() -> None:
    tree = json.loads(hooks.install("{}", CALL, "settings.json"))
    tree["hooks"]["Stop"].append(THEIRS)
    tree["hooks"]["SessionStart"][0]["hooks"].insert(0, THEIRS["hooks"][0])
    left = json.loads(hooks.uninstall(json.dumps(tree, indent=2), "settings.json") or "")
    assert left == {"hooks": {"Stop": [THEIRS], "SessionStart": [{"hooks": THEIRS["hooks"]}]}}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "line 1: this is not JSON"),
        ('{\n  // mine\n  "model": 1\n}', "line 2: this is not JSON"),
        ('{"a": 1,}', "this is not JSON"),
        ('{"a": NaN}', "NaN is no JSON"),
        ("[" * 100_000, "this is not JSON"),
        ("[]", "holds no JSON object"),
        ('{"hooks": []}', '"hooks" is no object'),
        ('{"hooks": {"Stop": {}}}', '"Stop" is no list'),
    ],
)
def test_what_is_not_understood_is_refused(text: str, told: str) -> None:
    with pytest.raises(UsageError, match=told) as caught:
        hooks.install(text, CALL, "settings.json")
    assert "nothing was changed" in caught.value.summary


@pytest.mark.parametrize("shell", ["sh", "bash"])
def test_the_command_is_silent_and_succeeds_where_the_program_has_gone(shell: str, tmp_path: Path) -> None:
    for call in (CALL, hooks.call_of("/bin/false", "it's")):
        done = subprocess.run(
            [shell, "-c", f"{call} # convergencectl hook install (made Stop)"],
            input=b"{}",
            cwd=tmp_path,
            capture_output=True,
            check=False,
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
