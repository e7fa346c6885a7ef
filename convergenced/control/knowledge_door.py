"""The way to shared knowledge, which is loaded when it is first needed: most daemons never do.

What is behind this door takes as long to load as a quarter of the daemon. It is opened where knowledge is
shared, or was once, and by the first request about it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from convergenced.control.params import Method
from convergenced.control.protocol import Json
from convergenced.control.server import Reply
from convergenced.knowledge import KNOWLEDGE_REF
from convergenced.model import LocalPath
from convergenced.sync.board import Attention, Missing
from convergenced.sync.desk import Desk
from convergenced.sync.engine import Engine
from convergenced.sync.rounds import Rounds

if TYPE_CHECKING:
    from convergenced.knowledge.librarian import Librarian

NAME = "knowledge"
METHODS = (
    "knowledge_status",
    "knowledge_diff",
    "knowledge_push",
    "knowledge_synthesize",
    "knowledge_apply",
    "knowledge_bootstrap",
    "knowledge_scaffold",
)


@dataclass(frozen=True, slots=True)
class Surroundings:
    """Where Claude Code's own folder is, where decisions are kept, and what providers run in."""

    config_dir: LocalPath
    state_dir: LocalPath
    environ: Mapping[str, str]


class KnowledgeDoor:
    """Stands for the librarian (see `Companion`) until there has to be one."""

    def __init__(self, desk: Desk, rounds: Rounds, surroundings: Surroundings) -> None:
        self._desk = desk
        self._rounds = rounds
        self._surroundings = surroundings
        self._inside: Librarian | None = None
        self._methods: Mapping[str, Method] | None = None
        if desk.parts.store.refs(KNOWLEDGE_REF):
            self.open()
        else:
            self.settings_changed()

    def open(self) -> Librarian:
        """The librarian."""
        if self._inside is None:
            from convergenced.knowledge.librarian import Librarian  # noqa: PLC0415 (see above)
            from convergenced.knowledge.library import Library, open_decisions  # noqa: PLC0415

            around = self._surroundings
            decisions = open_decisions(around.state_dir)
            library = Library(self._desk.parts, around.config_dir, decisions, around.environ)
            self._inside = Librarian(self._desk, self._rounds, library)
        return self._inside

    def deafness(self) -> str | None:
        """Why hints of changes are missing; None where they are not, or nobody watches."""
        return None if self._inside is None else self._inside.library.deafness()

    def methods(self, engine: Engine) -> dict[str, Method]:
        """What answers requests about it."""
        return {name: partial(self._answer, engine, name) for name in METHODS}

    def _answer(self, engine: Engine, name: str, params: dict[str, Json], reply: Reply) -> None:
        if self._methods is None:
            from convergenced.control.knowledge import KnowledgeMethods  # noqa: PLC0415 (see above)
            from convergenced.control.knowledge_files import KnowledgeFileMethods  # noqa: PLC0415

            inside = self.open()
            self._methods = {
                **KnowledgeMethods(engine, inside).methods,
                **KnowledgeFileMethods(engine, inside).methods,
            }
        self._methods[name](params, reply)

    # -- companion

    @property
    def due(self) -> float | None:
        """See `Companion`."""
        return None if self._inside is None else self._inside.due

    def start_due(self) -> None:
        """See `Companion`."""
        if self._inside is not None:
            self._inside.start_due()

    def look(self) -> None:
        """See `Companion`."""
        if self._inside is not None:
            self._inside.look()

    def settings_changed(self) -> None:
        """See `Companion`."""
        if self._inside is not None:
            self._inside.settings_changed()
        elif self._desk.settings.knowledge.enabled:
            self.open()

    def missing(self, since: float) -> Sequence[Missing]:
        """See `Companion`."""
        return () if self._inside is None else self._inside.missing(since)

    def attention(self) -> Sequence[Attention]:
        """See `Companion`."""
        return () if self._inside is None else self._inside.attention()

    def close(self) -> None:
        """See `Companion`."""
        if self._inside is not None:
            self._inside.close()
