"""Which of a user's settings and variables are a login of Claude Code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from convergenced.knowledge.providers.claude_login import login_environ, login_settings


def settings(home: Path, value: Any) -> dict[str, str]:
    """An environment whose user has these settings."""
    (home / ".claude").mkdir()
    (home / ".claude" / "settings.json").write_text(value if isinstance(value, str) else json.dumps(value))
    return {"HOME": str(home)}


def test_only_what_brings_a_key_is_taken_of_the_settings(tmp_path: Path) -> None:
    environ = settings(
        tmp_path,
        {
            "apiKeyHelper": "pass show key",
            "awsAuthRefresh": "aws sso login",
            "gcpAuthRefresh": 7,
            "hooks": {"Stop": []},
            "permissions": {"allow": ["Bash"]},
            "model": "opus",
            "env": {
                "ANTHROPIC_BASE_URL": "https://gateway.example.org",
                "CLAUDE_CODE_USE_BEDROCK": "1",
                "https_proxy": "http://127.0.0.1:9",
                "AWS_REGION": "eu-west-1",
                "AWS_PORT": 7,
                "PATH": "/tmp",
                "LD_PRELOAD": "/tmp/x.so",
                "NODE_OPTIONS": "--require /tmp/x.js",
                "CLAUDE_CODE_FORCE_SESSION_PERSISTENCE": "1",
                "CLAUDE_CONFIG_DIR": "/tmp",
            },
        },
    )
    assert login_settings(environ) == {
        "apiKeyHelper": "pass show key",
        "awsAuthRefresh": "aws sso login",
        "env": {
            "ANTHROPIC_BASE_URL": "https://gateway.example.org",
            "CLAUDE_CODE_USE_BEDROCK": "1",
            "https_proxy": "http://127.0.0.1:9",
            "AWS_REGION": "eu-west-1",
        },
    }


@pytest.mark.parametrize(
    "value", [{"env": {"EDITOR": "vi"}}, {"env": []}, [], "", "{", "[" * 100_000, "\ud800"[:0]]
)
def test_settings_without_a_login_or_sense_are_nothing(tmp_path: Path, value: Any) -> None:
    assert login_settings(settings(tmp_path, value)) == {}


def test_settings_that_are_not_there_are_nothing(tmp_path: Path) -> None:
    assert login_settings({"HOME": str(tmp_path)}) == {}


@pytest.mark.parametrize(
    ("given", "passed"), [("/conf", "/conf"), ("~/conf", "{home}/conf"), ("conf", "{home}/conf")]
)
def test_the_configured_folder_means_the_same_everywhere(tmp_path: Path, given: str, passed: str) -> None:
    environ = {"HOME": str(tmp_path), "CLAUDE_CONFIG_DIR": given}
    assert login_environ(environ)["CLAUDE_CONFIG_DIR"] == passed.format(home=tmp_path)


def test_a_folder_that_is_not_configured_stays_the_clients_choice(tmp_path: Path) -> None:
    assert login_environ({"HOME": str(tmp_path), "CLAUDE_CONFIG_DIR": ""}) == {"HOME": str(tmp_path)}
