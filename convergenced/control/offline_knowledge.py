"""What `knowledge` can say without a daemon: how the documents here stand to what the store holds."""

from __future__ import annotations

import os
from collections.abc import Mapping

from convergenced.control.knowledge_answers import KnowledgeDiff, KnowledgeStatus
from convergenced.control.knowledge_view import Only, format_diff, format_status, meant_in
from convergenced.control.offline import reading
from convergenced.control.params import ParamsError
from convergenced.control.protocol import Json
from convergenced.errors import ConfigError, UsageError
from convergenced.knowledge.library import Library, open_decisions
from convergenced.knowledge.look import Look
from convergenced.machine.locations import ClaudeLocations, Locations
from convergenced.machine.settings import Settings, load_settings
from convergenced.sync.replica import Machine


def offline_knowledge_status(
    locations: Locations, environ: Mapping[str, str], params: dict[str, Json]
) -> KnowledgeStatus:
    """The `knowledge_status` answer. Raises `UsageError` for an unknown project."""
    look, settings, machine, only = _look(locations, environ, params)
    shown = look if settings.knowledge.enabled else None
    return format_status(shown, settings, machine, only, ["no daemon runs"])


def offline_knowledge_diff(
    locations: Locations, environ: Mapping[str, str], params: dict[str, Json]
) -> KnowledgeDiff:
    """The `knowledge_diff` answer. Raises `UsageError` for an unknown project."""
    look, _, _, only = _look(locations, environ, params)
    return format_diff(look, only)


def _look(
    locations: Locations, environ: Mapping[str, str], params: dict[str, Json]
) -> tuple[Look, Settings, Machine, Only]:
    try:
        settings = load_settings(locations.config_file)
    except ConfigError:
        settings = Settings()
    config_dir = ClaudeLocations.from_environment(environ, os.path.expanduser("~")).config_dir
    with reading(locations, environ) as (parts, replicas):
        library = Library(parts, config_dir, open_decisions(locations.state_dir), environ)
        look = library.survey(settings, replicas)
        try:
            only = meant_in(params, replicas, parts.machine, look.knowledge)
        except ParamsError as error:
            raise UsageError(str(error)) from error
        return look, settings, parts.machine, only
