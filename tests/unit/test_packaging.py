"""What is installed is all there is."""

from __future__ import annotations

import tomllib
from pathlib import Path

TOP = Path(__file__).resolve().parents[2]


def test_every_package_is_installed() -> None:
    settings = tomllib.loads((TOP / "pyproject.toml").read_text())["tool"]["setuptools"]
    folders = settings["package-dir"]
    listed = {folders.get(name, name.replace(".", "/")) for name in settings["packages"]}
    there = {
        str(found.parent.relative_to(TOP))
        for top in ("convergenced", "ctl", "service-units")
        for found in (TOP / top).rglob("__init__.py")
    }
    assert listed == there
