"""config.toml: what it says, what is wrong with it and where, and edits that keep the user's words."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convergenced.errors import ConfigError
from convergenced.machine.settings import (
    BackupSettings,
    ExchangeSettings,
    IngestSettings,
    KnowledgeSettings,
    LocalizeSettings,
    MachineSettings,
    PeerSettings,
    ProjectSettings,
    SecretSettings,
    Settings,
    add_peer,
    default_config_text,
    expand_home,
    format_duration,
    get_value,
    load_settings,
    parse_duration,
    parse_settings,
    remove_peer,
    set_value,
    unset_value,
)
from convergenced.machine.settings_schema import SECTIONS
from convergenced.model import LocalPath

ALL = """\
[machine]
name = "desktop"
[projects]
track = "listed"
exclude = ["~/clients/**"]
auto_join = false
roots = ["~/code", "/srv/src"]
[ingest]
quiet = "500ms"
max_wait = "1m"
rescan = "1h"
[exchange]
interval = "90s"
transport = "git"
[[peers]]
name = "hub"
url = "git@github.com:you/context.git"
[[peers]]
name = "disk-2"
url = "/srv/context.git"
[localize]
hold = "machine"
[secrets]
policy = "block"
[backups]
keep = 3
[knowledge]
enabled = true
provider = "claude"
max_usd = 2
"""

KEYS = [f"{section}.{key}" for section, (_, keys) in SECTIONS.items() for key in keys]


def wrong(text: str) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        parse_settings(text, "/c/config.toml")
    return caught.value


# ---------------------------------------------------------------------- reading


def test_every_key_is_read() -> None:
    assert parse_settings(ALL, "config.toml") == Settings(
        machine=MachineSettings("desktop"),
        projects=ProjectSettings("listed", ("~/clients/**",), False, ("~/code", "/srv/src")),
        ingest=IngestSettings(0.5, 60.0, 3600.0),
        exchange=ExchangeSettings(90.0, "git"),
        peers=(
            PeerSettings("hub", "git@github.com:you/context.git"),
            PeerSettings("disk-2", "/srv/context.git"),
        ),
        localize=LocalizeSettings("machine"),
        secrets=SecretSettings("block"),
        backups=BackupSettings(3),
        knowledge=KnowledgeSettings(True, "claude", 2.0),
    )


def test_an_empty_file_means_the_defaults() -> None:
    assert parse_settings("", "config.toml") == Settings()
    assert parse_settings("[machine]\n[ingest]\n", "config.toml") == Settings()


def test_the_defaults_are_those_of_the_contract() -> None:
    settings = Settings()
    assert (settings.ingest, settings.exchange.interval) == (IngestSettings(2, 30, 600), 60)
    assert (settings.projects.track, settings.projects.auto_join) == ("all", True)
    assert (settings.localize.hold, settings.secrets.policy, settings.backups.keep) == ("project", "warn", 10)
    assert settings.knowledge == KnowledgeSettings(False, "none", 1.0)


def test_the_schema_knows_every_field_and_no_other() -> None:
    for section, (make, keys) in SECTIONS.items():
        fields = dataclasses.fields(getattr(Settings(), section))
        assert [field.name for field in fields] == list(keys)
        assert isinstance(getattr(Settings(), section), make)  # type: ignore[arg-type]


def test_the_first_file_says_the_defaults_of_every_key() -> None:
    text = default_config_text("desktop")
    assert parse_settings(text, "config.toml") == Settings(machine=MachineSettings("desktop"))
    for section, (_, keys) in SECTIONS.items():
        assert f"[{section}]" in text
        assert all(f"\n{key} = " in text and described.comment in text for key, described in keys.items())


def test_the_first_file_may_have_peers() -> None:
    peers = (PeerSettings("hub", "/srv/a.git"), PeerSettings("b", "ssh://git@example.org/b"))
    assert parse_settings(default_config_text("x", peers), "config.toml").peers == peers


def test_a_file_that_is_not_there_means_the_defaults(tmp_path: Path) -> None:
    assert load_settings(LocalPath(str(tmp_path / "config.toml"))) == Settings()


def test_a_file_is_loaded(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text(ALL)
    assert load_settings(LocalPath(str(tmp_path / "config.toml"))).machine.name == "desktop"


def test_a_file_that_is_not_utf_8_is_wrong_in_its_line(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_bytes(b'[machine]\nname = "\xff"\n')
    with pytest.raises(ConfigError, match=r"config.toml, line 2: not UTF-8"):
        load_settings(LocalPath(str(tmp_path / "config.toml")))


def test_what_cannot_be_read_is_a_config_error(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "config.toml")
    with pytest.raises(ConfigError, match="no regular file"):
        load_settings(LocalPath(str(tmp_path / "config.toml")))


def test_reading_does_not_pay_for_editing() -> None:
    words = "import sys, convergenced.machine.settings as s; s.parse_settings('[ingest]', 'x'); "
    check = subprocess.run([sys.executable, "-c", words + "sys.exit('tomlkit' in sys.modules)"], check=False)
    assert check.returncode == 0


# ---------------------------------------------------------------------- what is wrong, and where


@pytest.mark.parametrize(
    ("text", "line", "said", "hint"),
    [
        ("[ingest]\n# …\nquite = '2s'\n", 3, "unknown key ingest.quite", "did you mean ingest.quiet?"),
        ("[ingst]\n", 1, "unknown section ingst", "did you mean ingest?"),
        ("\n\n[zzz]\nx = 1\n", 3, "unknown section zzz", "machine, projects"),
        ("[ingest]\nquiet = 2\n", 2, "value of ingest.quiet", '"2s"'),
        ("[ingest]\nquiet = '2 s'\n", 2, "value of ingest.quiet", '"2s"'),
        ("[ingest]\nquiet = '1ms'\n", 2, "value of ingest.quiet", '"100ms"'),
        (
            "[ingest]\nquiet = '10s'\nmax_wait = '5s'\n",
            3,
            "value of ingest.max_wait",
            "at least ingest.quiet",
        ),
        ("ingest.quiet = true\n", 1, "value of ingest.quiet", '"2s"'),
        ("\ningest = 3\n", 2, "value of ingest", "a section"),
        ("[projects]\ntrack = 'some'\n", 2, "value of projects.track", '"all", "listed"'),
        ("[projects]\nroots = 'x'\n", 2, "value of projects.roots", "a list"),
        ("[projects]\nroots = ['src']\n", 2, "value of projects.roots", '"~/"'),
        ("[projects]\nexclude = [1]\n", 2, "value of projects.exclude", "a list"),
        ("[projects]\nauto_join = 'yes'\n", 2, "value of projects.auto_join", "true or false"),
        ("[backups]\nkeep = 0\n", 2, "value of backups.keep", "from 1"),
        ("[backups]\nkeep = true\n", 2, "value of backups.keep", "whole number"),
        ("[knowledge]\nmax_usd = -1\n", 2, "value of knowledge.max_usd", "dollars"),
        ("[knowledge]\nmax_usd = nan\n", 2, "value of knowledge.max_usd", "dollars"),
        ("[machine]\nname = 'a\tb'\n", 2, "value of machine.name", "a text"),
        ("[machine]\nname = \n", 2, "not valid TOML", "correct that line"),
        ("[machine]\nname = 'x'\nname = 'y'\n", 3, "not valid TOML", "correct that line"),
        ('[machine]\nname = """x', 2, "not valid TOML", "correct that line"),
        ("peers = 3\n", 1, "value of peers", "[[peers]]"),
        ("peers = [3]\n", 1, "value of peers", "[[peers]]"),
        ("[[peers]]\nname = 'a'\n", 1, "has no url", "git repository"),
        ("[[peers]]\nname = 'a b'\nurl = '/x'\n", 2, "value of peers.name", "letters"),
        ("[[peers]]\nname = 'a'\nurl = 'x'\n", 3, "value of peers.url", "git repository"),
        (
            "[[peers]]\nname='a'\nurl='/x'\n[[peers]]\nname='b'\nulr='/x'\n",
            6,
            "unknown key peers.ulr",
            "peers.url",
        ),
        (
            "[[peers]]\nname='a'\nurl='/x'\n[[peers]]\nurl='/x'\nname='a'\n",
            6,
            "two peers are named a",
            "another",
        ),
        ("[machine]\nquiet = 'x'\n[ingest]\nquiet = 'x'\n", 2, "unknown key machine.quiet", "machine.name"),
    ],
)
def test_a_mistake_is_told_with_file_line_and_what_is_allowed(
    text: str, line: int, said: str, hint: str
) -> None:
    error = wrong(text)
    assert error.summary.startswith(f"/c/config.toml, line {line}: ")
    assert said in error.summary
    assert hint in error.hint
    assert error.exit_code == 2


def test_a_password_in_a_url_is_taken_and_never_shown() -> None:
    text = "[[peers]]\nname = 'a'\nurl = 'https://ann:hunter2@example.org/x'\n"
    assert parse_settings(text, "c").peers[0].url.startswith("https://ann:hunter2@")
    error = wrong(text.replace("https", "http"))
    assert "hunter2" not in f"{error}"


def test_too_many_peers_are_refused() -> None:
    text = "".join(f"[[peers]]\nname = 'p{number}'\nurl = '/x'\n" for number in range(65))
    assert "at most 64 peers" in wrong(text).hint


@given(st.text(max_size=80))
def test_no_text_breaks_the_reading(text: str) -> None:
    try:
        parse_settings(text, "config.toml")
    except ConfigError as error:
        assert error.summary.startswith("config.toml, line ")  # noqa: PT017


# ---------------------------------------------------------------------- durations and paths


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("500ms", 0.5), ("2s", 2), ("1.5s", 1.5), ("10m", 600), ("1h", 3600), ("7d", 604_800)],
)
def test_a_duration_is_read_in_seconds(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "2", "s", "-2s", "2 s", "2S", "1h30m", "1e3s", "٣s", "2s\n"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="duration"):
        parse_duration(text)


@given(st.integers(min_value=1, max_value=10**9))
def test_a_duration_survives_its_spelling(milliseconds: int) -> None:
    assert parse_duration(format_duration(milliseconds / 1000)) == pytest.approx(milliseconds / 1000)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.5, "500ms"), (2, "2s"), (60, "60s"), (90, "90s"), (600, "10m"), (3600, "1h")]
)
def test_a_duration_is_spelled_as_people_would(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@pytest.mark.parametrize(
    ("path", "expanded"), [("~", "/h"), ("~/src/", "/h/src"), ("/srv/./x", "/srv/x"), ("/a~/b", "/a~/b")]
)
def test_home_is_put_for_the_tilde(path: str, expanded: str) -> None:
    assert expand_home(path, "/h") == expanded


# ---------------------------------------------------------------------- editing

COMMENTED = """\
# mine
[ingest]   # how fast
quiet = "2s"   # not too fast
# more

[projects]
roots = [
  "~/src",  # here
]
"""


def test_an_edit_keeps_every_comment() -> None:
    assert set_value(COMMENTED, "ingest.quiet", "5s") == COMMENTED.replace('"2s"', '"5s"')


@pytest.mark.parametrize(
    ("key", "typed", "value"),
    [
        ("machine.name", "my desktop", "my desktop"),
        ("projects.track", "listed", "listed"),
        ("projects.auto_join", "FALSE", "false"),
        ("projects.roots", "~/a, /b", '["~/a", "/b"]'),
        ("projects.roots", '["~/a,b"]', '["~/a,b"]'),
        ("projects.exclude", "", "[]"),
        ("ingest.quiet", "500ms", "500ms"),
        ("backups.keep", "7", "7"),
        ("knowledge.max_usd", "2.5", "2.5"),
    ],
)
def test_what_is_set_is_got(key: str, typed: str, value: str) -> None:
    for text in ("", COMMENTED, default_config_text("desktop")):
        assert get_value(set_value(text, key, typed), key) == value


@pytest.mark.parametrize("key", KEYS)
def test_what_is_got_can_be_set_again(key: str) -> None:
    assert get_value(set_value(ALL, key, get_value(ALL, key)), key) == get_value(ALL, key)


@pytest.mark.parametrize("key", KEYS)
def test_what_is_unset_has_its_default_again(key: str) -> None:
    assert get_value(unset_value(ALL, key), key) == get_value("", key)
    assert unset_value("", key) == ""


@pytest.mark.parametrize(
    ("key", "typed", "hint"),
    [
        ("ingest.quiet", "soon", '"2s"'),
        ("projects.auto_join", "maybe", "true or false"),
        ("projects.roots", "[", "a list"),
        ("projects.roots", "src", "a list"),
        ("backups.keep", "many", "whole number"),
        ("knowledge.max_usd", "inf", "dollars"),
        ("ingest.max_wait", "1s", "at least ingest.quiet"),
        ("ingest.quite", "2s", "did you mean ingest.quiet?"),
        ("quiet", "2s", "there are:"),
        ("peers.name", "x", "there are:"),
    ],
)
def test_what_makes_no_sense_cannot_be_set(key: str, typed: str, hint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        set_value(COMMENTED, key, typed)
    assert hint in caught.value.hint


def test_a_file_that_is_wrong_is_not_edited() -> None:
    with pytest.raises(ConfigError, match="line 2"):
        set_value("[ingest]\nquite = '2s'\n", "ingest.quiet", "2s")


@pytest.mark.parametrize("text", ["", COMMENTED, ALL, default_config_text("desktop")])
def test_a_peer_is_added_and_removed_again(text: str) -> None:
    before = parse_settings(text, "config.toml")
    added = add_peer(text, "new", "/srv/new.git")
    assert parse_settings(added, "config.toml").peers == (*before.peers, PeerSettings("new", "/srv/new.git"))
    assert all(line in added.split("\n") for line in text.split("\n"))
    assert parse_settings(remove_peer(added, "new"), "config.toml") == before


def test_the_right_one_of_several_peers_is_removed() -> None:
    assert [peer.name for peer in parse_settings(remove_peer(ALL, "hub"), "c").peers] == ["disk-2"]
    assert parse_settings(remove_peer(remove_peer(ALL, "hub"), "disk-2"), "c").peers == ()


@pytest.mark.parametrize(
    ("name", "url"), [("hub", "/srv/x"), ("a/b", "/srv/x"), ("", "/srv/x"), ("n" * 65, "/srv/x"), ("a", "x")]
)
def test_a_peer_that_makes_no_sense_is_not_added(name: str, url: str) -> None:
    with pytest.raises(ConfigError):
        add_peer(ALL, name, url)


def test_a_peer_that_is_not_there_is_not_removed() -> None:
    with pytest.raises(ConfigError, match="no peer named x") as caught:
        remove_peer(ALL, "x")
    assert "hub, disk-2" in caught.value.hint
