"""What each method of the control socket does with the engine.

Requests arrive in the server's thread and are posted to the control thread, which owns all state;
what blocks is done by workers. Every request gets exactly one answer.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import cast, get_args

from convergenced.canon.secrets import is_fingerprint
from convergenced.control import answers, sessions
from convergenced.control.conflicts import Settlement, list_conflicts
from convergenced.control.doctor import Doctor
from convergenced.control.examination import Examination
from convergenced.control.params import (
    Method,
    ParamsError,
    fail,
    number_in,
    path_in,
    required_in,
    text_in,
    texts_in,
    truth_in,
)
from convergenced.control.projects import Move, Removal
from convergenced.control.protocol import INVALID_PARAMS, METHOD_NOT_FOUND, Json, Request
from convergenced.control.server import Reply
from convergenced.control.status import format_available, format_projects, format_status, iso
from convergenced.errors import ConfigError, ConvergenceError, TimedOutError, UsageError
from convergenced.model import LocalPath, ProjectId
from convergenced.sync.board import Missing
from convergenced.sync.conflicts import Take
from convergenced.sync.engine import Engine
from convergenced.sync.leaving import exclusion_of
from convergenced.sync.replica import Parts, Replica
from convergenced.sync.tracking import Tracked, begin_project, join_project

log = logging.getLogger(__name__)

MAX_MISSING = 200
"""Lines about what is missing in one answer, at most."""


class Dispatcher:
    """Answers requests about one engine.

    `reload` reads the configuration again and applies it, `add_peer` and `remove_peer` change the peers in
    it, `exclude` what `projects.exclude` has (added, removed); all raise `ConfigError` and then change
    nothing. `shutdown` begins an orderly end. `beside` are the methods of parts that work beside the
    projects.
    """

    def __init__(
        self,
        engine: Engine,
        parts: Parts,
        *,
        reload: Callable[[], None],
        add_peer: Callable[[str, str], None],
        remove_peer: Callable[[str], None],
        exclude: Callable[[Sequence[str], Sequence[str]], None],
        doctor: Doctor,
        shutdown: Callable[[], None],
        beside: Mapping[str, Method] | None = None,
    ) -> None:
        self._engine = engine
        self._parts = parts
        self._reload = reload
        self._add_peer = add_peer
        self._remove_peer = remove_peer
        self._exclude = exclude
        self._doctor = doctor
        self._shutdown = shutdown
        self._methods: dict[str, Method] = {
            "ping": self._ping,
            "status": self._status,
            "projects": self._projects,
            "pause": self._pause,
            "resume": self._resume,
            "sync": self._sync,
            "wait": self._wait,
            "init": self._init,
            "join": self._join,
            "project_move": self._project_move,
            "project_remove": self._project_remove,
            "peer_add": self._peer_add,
            "peer_remove": self._peer_remove,
            "conflicts": self._conflicts,
            "conflict_resolve": self._conflict_resolve,
            "sessions": self._sessions,
            "session_history": self._session_history,
            "session_backups": self._session_backups,
            "session_restore": self._session_restore,
            "secrets_allow": self._secrets_allow,
            "doctor": self._examine,
            "reload": self._reload_config,
            "shutdown": self._stop,
            **(beside or {}),
        }

    def handle(self, request: Request, reply: Reply) -> None:
        """Takes a request in the server's thread; the answer comes later."""
        method = self._methods.get(request.method)
        if method is None:
            reply.refuse(METHOD_NOT_FOUND, f"there is no method {request.method!r}")
            return
        self._engine.post(lambda: self._answer(method, request, reply))

    def _answer(self, method: Method, request: Request, reply: Reply) -> None:
        try:
            method(request.params, reply)
        except ParamsError as error:
            reply.refuse(INVALID_PARAMS, f"{request.method}: {error}")
        except ConvergenceError as error:
            reply.error(error)
        except Exception as error:
            log.exception("%s failed", request.method)
            if not reply.answered:
                reply.error(ConvergenceError(f"{request.method} failed: {error}", "see the daemon's log"))

    # -- looking

    def _ping(self, params: dict[str, Json], reply: Reply) -> None:
        del params
        ping: answers.Ping = {
            "pid": os.getpid(),
            "version": self._parts.machine.version,
            "ready": self._engine.ready,
        }
        reply.result(cast("Json", ping))

    def _status(self, params: dict[str, Json], reply: Reply) -> None:
        clock = self._parts.clock
        status = format_status(self._engine, self._parts.machine, clock.now(), clock.monotonic())
        only = text_in(params, "project", None)
        if only is not None:
            (project,) = self._known([only])
            status["projects"] = [one for one in status["projects"] if one["id"] == project]
            status["attention"] = [one for one in status["attention"] if one["project"] in (None, project)]
            status["notices"] = [one for one in status["notices"] if one["project"] in (None, project)]
            status["live"] = [one for one in status["live"] if one["project"] == project]
        reply.result(cast("Json", status))

    def _projects(self, params: dict[str, Json], reply: Reply) -> None:
        answer: answers.Projects = {
            "projects": format_projects(self._engine, self._parts.machine),
            "available": format_available(self._engine) if truth_in(params, "available") else [],
        }
        reply.result(cast("Json", answer))

    # -- doing

    def _pause(self, params: dict[str, Json], reply: Reply) -> None:
        projects = self._known(texts_in(params, "projects"))
        seconds = number_in(params, "seconds")
        self._engine.pause(projects, None if seconds is None else self._parts.clock.now() + seconds)
        reply.result({"projects": _listed(projects or self._engine.board.projects())})

    def _resume(self, params: dict[str, Json], reply: Reply) -> None:
        projects = self._known(texts_in(params, "projects"))
        self._engine.resume(projects)
        reply.result({"projects": _listed(projects or self._engine.board.projects())})

    def _sync(self, params: dict[str, Json], reply: Reply) -> None:
        wanted = self._known(texts_in(params, "projects")) or None
        if truth_in(params, "dry_run"):
            self._engine.preview(wanted, lambda found: reply.result(_synced(found, [])))
            return
        if truth_in(params, "full"):
            self._engine.forget_notes(wanted)
        since = self._engine.look_at_everything(wanted)
        if not truth_in(params, "wait"):
            reply.result(_synced([], []))
            return
        timeout = number_in(params, "timeout")
        self._when_synced(wanted, since, timeout, reply, patient=False)

    def _wait(self, params: dict[str, Json], reply: Reply) -> None:
        if text_in(params, "for", "synced") != "synced":
            raise ParamsError("only 'synced' can be waited for")
        since = self._engine.look_at_everything()
        self._when_synced(None, since, number_in(params, "timeout"), reply, patient=True)

    def _when_synced(
        self,
        wanted: list[ProjectId] | None,
        since: float,
        timeout: float | None,
        reply: Reply,
        *,
        patient: bool,
    ) -> None:
        """Answers once all is in step; where not `patient`, also once only others can help."""
        deadline = None if timeout is None else self._parts.clock.monotonic() + timeout

        def answer(missing: list[Missing]) -> bool:
            if reply.closed:
                return True
            if not missing or (not patient and all(miss.cause != "work" for miss in missing)):
                reply.result(_synced([], missing))
                return True
            if deadline is not None and self._parts.clock.monotonic() >= deadline:
                first = f"{missing[0].project}: {missing[0].text}" if missing[0].project else missing[0].text
                more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
                reply.error(TimedOutError(f"not synced in time: {first}{more}", "see: convergencectl status"))
                return True
            return False

        self._engine.wait(wanted, since, timeout, answer)

    def _init(self, params: dict[str, Json], reply: Reply) -> None:
        path = path_in(params, "path")
        wanted = text_in(params, "id", None)
        rewrite_home = truth_in(params, "rewrite_home", otherwise=True)
        parts, checkouts = self._parts, self._engine.checkouts
        self._track(reply, lambda: begin_project(parts, checkouts, path, wanted, rewrite_home))

    def _join(self, params: dict[str, Json], reply: Reply) -> None:
        path = path_in(params, "path")
        wanted = text_in(params, "id", None)
        parts, checkouts, peers = self._parts, self._engine.checkouts, self._engine.peer_openers()
        self._track(reply, lambda: join_project(parts, checkouts, peers, path, wanted))

    def _track(self, reply: Reply, job: Callable[[], Tracked]) -> None:
        def done(tracked: Tracked) -> None:
            self._include(tracked.root)
            self._engine.tracked_anew()
            reply.result({"id": tracked.project, "root": tracked.root, "context_dir": tracked.context_dir})

        self._in_background(reply, job, done)

    def _include(self, root: LocalPath) -> None:
        """What was removed once and is wanted again is not excluded any more."""
        pattern = exclusion_of(root, self._parts.machine.home)
        if pattern in self._engine.settings.projects.exclude:
            with contextlib.suppress(ConfigError):  # it takes part by hand, which counts for more
                self._exclude([], [pattern])

    def _project_move(self, params: dict[str, Json], reply: Reply) -> None:
        move = Move(
            self._engine,
            path_in(params, "old"),
            path_in(params, "new"),
            done=lambda moved: reply.result(cast("Json", moved)),
            failed=lambda error: fail(reply, error),
        )
        if truth_in(params, "plan"):
            move.plan()
        else:
            move.start()

    def _project_remove(self, params: dict[str, Json], reply: Reply) -> None:
        removal = Removal(
            self._engine,
            self._exclude,
            done=lambda removed: reply.result(cast("Json", removed)),
            failed=lambda error: fail(reply, error),
        )
        name, path = required_in(params, "project"), path_in(params, "path")
        if truth_in(params, "plan"):
            removal.plan(name, path)
        else:
            is_purge, is_named = truth_in(params, "purge"), truth_in(params, "named")
            removal.start(name, path, is_purge=is_purge, is_named=is_named)

    def _in_background(
        self, reply: Reply, job: Callable[[], Tracked], done: Callable[[Tracked], None]
    ) -> None:
        self._engine.background(job, done, lambda error: fail(reply, error))

    def _conflicts(self, params: dict[str, Json], reply: Reply) -> None:
        del params
        parts, projects = self._parts, self._engine.board.projects()
        replicas = [state.replica for state in self._engine.board.replicas.values()]
        self._engine.background(
            lambda: list_conflicts(parts, projects, replicas),
            lambda found: reply.result(cast("Json", found)),
            lambda error: fail(reply, error),
        )

    def _conflict_resolve(self, params: dict[str, Json], reply: Reply) -> None:
        take = required_in(params, "take")
        if take not in get_args(Take):
            raise ParamsError(f"take must be one of {', '.join(get_args(Take))}")
        Settlement(
            self._engine,
            required_in(params, "path"),
            path_in(params, "local"),
            cast("Take", take),
            done=lambda settled: reply.result(cast("Json", settled)),
            failed=lambda error: fail(reply, error),
        ).start()

    def _sessions(self, params: dict[str, Json], reply: Reply) -> None:
        parts, replicas = self._parts, self._replicas()
        wanted = text_in(params, "project", None)
        only = None if wanted is None else sessions.project_named(parts, replicas, wanted)
        offset, limit = (int(number_in(params, name) or 0) for name in ("offset", "limit"))
        limit = min(limit or sessions.MAX_PAGE, sessions.MAX_PAGE)
        live = self._engine.roll_call.elsewhere()
        self._tell(reply, lambda: sessions.list_sessions(parts, replicas, only, offset, limit, live))

    def _session_history(self, params: dict[str, Json], reply: Reply) -> None:
        parts, replicas, text = self._parts, self._replicas(), required_in(params, "session")
        self._tell(reply, lambda: sessions.tell_history(parts, replicas, text))

    def _session_backups(self, params: dict[str, Json], reply: Reply) -> None:
        parts, replicas, text = self._parts, self._replicas(), text_in(params, "session", None)
        self._tell(reply, lambda: sessions.list_backups(parts, replicas, text))

    def _session_restore(self, params: dict[str, Json], reply: Reply) -> None:
        sessions.Restoring(
            self._engine,
            required_in(params, "session"),
            at=text_in(params, "at", None),
            backup=text_in(params, "backup", None),
            done=lambda restored: reply.result(cast("Json", restored)),
            failed=lambda error: fail(reply, error),
        ).start()

    def _secrets_allow(self, params: dict[str, Json], reply: Reply) -> None:
        fingerprints, state = texts_in(params, "fingerprints"), self._parts.state
        if any(not is_fingerprint(one) for one in fingerprints):
            raise ParamsError("fingerprints are 12 hexadecimal digits")
        if truth_in(params, "forget"):
            state.disallow(fingerprints)
        else:
            state.allow(fingerprints, self._parts.clock.now())
        self._engine.look_at_everything()
        answer: answers.Allowed = {"allowed": {one: iso(at) for one, at in state.allowed().items()}}
        reply.result(cast("Json", answer))

    def _replicas(self) -> list[Replica]:
        return [state.replica for state in self._engine.board.replicas.values()]

    def _tell(self, reply: Reply, job: Callable[[], object]) -> None:
        """Answers with what a job in the archive's lane finds."""
        self._engine.desk.submit(
            sessions.LANE,
            job,
            lambda found: reply.result(cast("Json", found)),
            lambda error: fail(reply, error),
        )

    def _examine(self, params: dict[str, Json], reply: Reply) -> None:
        Examination(
            self._engine,
            self._doctor,
            path_in(params, "path") if params.get("path") is not None else None,
            deep=truth_in(params, "deep"),
            fix=truth_in(params, "fix"),
            done=lambda found: reply.result(cast("Json", found)),
            failed=lambda error: fail(reply, error),
        ).start()

    def _peer_add(self, params: dict[str, Json], reply: Reply) -> None:
        self._add_peer(required_in(params, "name"), required_in(params, "url"))
        reply.result({})

    def _peer_remove(self, params: dict[str, Json], reply: Reply) -> None:
        self._remove_peer(required_in(params, "name"))
        reply.result({})

    def _reload_config(self, params: dict[str, Json], reply: Reply) -> None:
        del params
        self._reload()
        reply.result({})

    def _stop(self, params: dict[str, Json], reply: Reply) -> None:
        del params
        reply.result({})
        self._shutdown()

    def _known(self, names: Iterable[str]) -> list[ProjectId]:
        """The projects meant, by id, root or context folder. Raises `UsageError`."""
        states, machine = self._engine.board.replicas.values(), self._parts.machine
        found: list[ProjectId] = []
        for name in names:
            matches = {
                state.replica.project
                for state in states
                if name in (state.replica.project, state.replica.root, state.replica.context_dir(machine))
            }
            if not matches:
                mine = ", ".join(self._engine.board.projects()) or "none yet"
                raise UsageError(f"there is no project {name!r} here", f"the projects here: {mine}")
            found.extend(matches)
        return found


def _synced(actions: list[tuple[str, str]], missing: list[Missing]) -> Json:
    unsynced: list[Json] = [{"project": miss.project, "text": miss.text} for miss in missing[:MAX_MISSING]]
    done: list[Json] = [{"project": project, "text": text} for project, text in actions]
    return {"actions": done, "state": "pending" if unsynced else "synced", "unsynced": unsynced}


def _listed(projects: Iterable[ProjectId]) -> Json:
    return list[Json](projects)
