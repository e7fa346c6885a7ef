"""What the control socket does about files that are written once: first CLAUDE.md files, a hub's workflow.

Requests arrive in the control thread; composing, writing and the hub are the work of a lane of its own.
Nothing of it needs shared knowledge to be on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast, get_args

from convergenced.control import knowledge_answers as answers
from convergenced.control.knowledge_view import meant_in
from convergenced.control.params import Method, ParamsError, fail, required_in, texts_in, truth_in
from convergenced.control.protocol import Json
from convergenced.control.server import Reply
from convergenced.errors import ConvergenceError
from convergenced.knowledge.drafting import Drafts, FirstDocument
from convergenced.knowledge.librarian import Librarian
from convergenced.knowledge.providers.hubs import Forge, choose_hub
from convergenced.knowledge.scaffold import Scaffolded, scaffold
from convergenced.machine.settings_schema import PeerSettings
from convergenced.model import LocalPath
from convergenced.ports import Peer
from convergenced.store.peers import open_peer
from convergenced.sync.engine import Engine

LANE = "knowledge-files"

OpenAt = Callable[[PeerSettings, LocalPath], Peer]
"""Opens a peer for the store at a path."""


class KnowledgeFileMethods:
    """The methods, by the names they have on the socket."""

    def __init__(self, engine: Engine, librarian: Librarian, open_at: OpenAt | None = None) -> None:
        self._engine = engine
        self._librarian = librarian
        self._drafts = Drafts(librarian.library)
        self._open_at = open_at or self._open
        self.methods: dict[str, Method] = {
            "knowledge_bootstrap": self._bootstrap,
            "knowledge_scaffold": self._scaffold,
        }

    # -- first documents

    def _bootstrap(self, params: dict[str, Json], reply: Reply) -> None:
        librarian, settings, drafts = self._librarian, self._engine.settings, self._drafts
        board, machine = self._engine.board, self._engine.desk.parts.machine
        wanted = texts_in(params, "write")
        replicas = [state.replica for state in board.replicas.values()]
        only = meant_in(params, replicas, machine, librarian.knowledge)
        if board.surveyed_at < 0:
            raise ConvergenceError("the projects folder is being looked at", "try again in a moment")

        def tell(text: str) -> None:
            self._engine.post(lambda: self._show(text))

        def work() -> list[FirstDocument]:
            if wanted:
                return drafts.write(settings, replicas, wanted)
            return drafts.compose(settings, replicas, only, stop=librarian.stopping, tell=tell)

        def done(found: list[FirstDocument]) -> None:
            librarian.composing = None
            if any(one.written for one in found):
                librarian.look()
            reply.result([cast("Json", format_first(one)) for one in found])

        def failed(error: Exception) -> None:
            librarian.composing = None
            fail(reply, error)

        self._engine.desk.submit(LANE, work, done, failed)

    def _show(self, text: str) -> None:
        self._librarian.composing = text

    # -- a hub's workflow

    def _scaffold(self, params: dict[str, Json], reply: Reply) -> None:
        kind, force = required_in(params, "kind"), truth_in(params, "force")
        if kind not in get_args(Forge):
            raise ParamsError(f"kind must be one of {', '.join(get_args(Forge))}")
        forge, settings, parts = cast("Forge", kind), self._engine.settings, self._engine.desk.parts
        hub = choose_hub(forge, settings.knowledge, settings.peers)
        named = next(peer for peer in settings.peers if peer.name == hub.peer)

        def work() -> Scaffolded:
            author, time = parts.machine.author, int(parts.clock.now())
            return scaffold(
                forge,
                named,
                settings.knowledge,
                author,
                time,
                lambda path: self._open_at(named, path),
                force=force,
            )

        self._engine.desk.submit(
            LANE,
            work,
            lambda made: reply.result(cast("Json", format_scaffolded(named.name, made))),
            lambda error: fail(reply, error),
        )

    def _open(self, peer: PeerSettings, path: LocalPath) -> Peer:
        transport, environ = self._engine.settings.exchange.transport, self._librarian.library.environ
        return open_peer(peer.url, path, name=peer.name, transport=transport, environ=environ)


def format_first(one: FirstDocument) -> answers.KnowledgeBootstrap:
    """A first document as it stands in answers."""
    return {
        "id": one.id,
        "scope": one.scope,
        "local": one.local,
        "text": one.text.decode("utf-8", "replace"),
        "diff": one.diff,
        "exists": one.exists,
        "sources": list(one.sources),
        "usd": one.usd,
        "trouble": one.trouble,
        "written": one.written,
    }


def format_scaffolded(peer: str, made: Scaffolded) -> answers.KnowledgeScaffold:
    """A workflow that was written, or not, as it stands in answers."""
    return {
        "peer": peer,
        "file": made.file,
        "written": made.written,
        "commit": made.commit,
        "next": list(made.next),
        "existing": made.existing,
        "text": made.text,
    }
