"""Synthesis in the CI of a hub: `python -m convergenced.knowledge.pipeline --repository . --push origin`.

The clone that it runs in is only asked where its remote is and what opens it; the work is done in a store of
its own that is gone afterwards. Promises: a scope is merged as a whole or stays as it was; nothing is forced:
what others push meanwhile is merged in; what went wrong is told in one line that whoever started it from
afar understands (`markers`).
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from convergenced.errors import (
    ConvergenceError,
    NewerSchemaError,
    PeerError,
    PeerRefusedError,
    UsageError,
)
from convergenced.knowledge.branch import KNOWLEDGE_REF, advance_knowledge, commit_knowledge, knowledge_at
from convergenced.knowledge.keys import SERVICE, read_keyring
from convergenced.knowledge.markers import Trouble, done, failed, harmless
from convergenced.knowledge.provider import ProviderError
from convergenced.knowledge.synthesis import ScopeResult, ScopeTask, estimate, gather, record, synthesize
from convergenced.knowledge.worker import open_model
from convergenced.machine.clock import SystemClock
from convergenced.machine.settings_schema import KnowledgeSettings
from convergenced.merge.contributions import due_scopes, inputs_of
from convergenced.merge.knowledge import Knowledge, Scope
from convergenced.model import Author, LocalPath, MachineId, Oid
from convergenced.ports import Clock, Peer, Store
from convergenced.store.branch import peer_ref
from convergenced.store.peers import is_behind, open_peer
from convergenced.store.program import Limits, Programs
from convergenced.store.repo import open_store
from convergenced.sync.tips import ref_of
from convergenced.wording import plural

CI_MACHINE = MachineId("ci-00000000")
"""Under which name the branch has what was made here: no machine of anybody's."""
AUTHOR = Author("convergence in CI", "ci@convergence")

MAX_PUSHES = 5
"""How often it is pushed, at most, where others push at the same time."""

_PEER = "hub"
_TRACKING = peer_ref(_PEER, "knowledge")
_CONFIG_S = 30.0
_PASSED_ON = ("http.", "credential.", "url.", "core.sshcommand", "core.gitproxy", "ssh.")
"""Settings of the clone that open its remote: how CIs hand git their credentials."""

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line says. `push` is a remote's name or a URL."""

    repository: str
    push: str
    settings: KnowledgeSettings
    dry_run: bool = False


class _TroubleError(Exception):
    """A failure, as whoever follows from afar is told of it."""

    def __init__(self, trouble: Trouble, error: ConvergenceError) -> None:
        super().__init__(str(error))
        self.trouble = trouble
        self.error = error


def run(options: Options, environ: Mapping[str, str], say: Say, *, clock: Clock | None = None) -> int:
    """Merges what is due and pushes it; returns the exit code. `say` gets the log, line by line."""
    try:
        with tempfile.TemporaryDirectory(prefix="convergence-") as folder:
            clone = _Clone(os.path.abspath(options.repository), environ)
            store = open_store(LocalPath(os.path.join(folder, "store.git")))
            url, settings = clone.url_of(options.push), clone.settings()
            peer = open_peer(url, store.path, name=_PEER, transport="git", environ={**environ, **settings})
            work = _Work(store, peer, options, environ, say, clock or SystemClock())
            say(done(work.run()))
    except _TroubleError as trouble:
        say(failed(trouble.trouble, str(trouble)))
        return trouble.error.exit_code
    except ConvergenceError as error:
        say(failed("newer" if isinstance(error, NewerSchemaError) else "other", str(error)))
        return error.exit_code
    return 0


class _Work:
    def __init__(
        self, store: Store, peer: Peer, options: Options, environ: Mapping[str, str], say: Say, clock: Clock
    ) -> None:
        self._store = store
        self._peer = peer
        self._settings = options.settings
        self._dry_run = options.dry_run
        self._environ = environ
        self._say = say
        self._clock = clock
        self._outcomes: list[str] = []
        self._usd = 0.0

    def run(self) -> str:
        """What was done, in words."""
        if not self._fetch():
            return "no machine has shared anything yet"
        knowledge, refusals = knowledge_at(self._store, ref_of(self._store, KNOWLEDGE_REF))
        for refusal in refusals:
            self._tell(f"left out {refusal.where}: {refusal.reason}")
        tasks = [(scope, gather(self._store, knowledge, scope)) for scope in due_scopes(knowledge)]
        if not tasks:
            return "nothing changed since the last merge"
        if self._dry_run:
            return self._plan([task for _, task in tasks])
        try:
            self._synthesize(knowledge, tasks)
        finally:
            # What was merged before trouble began is whole, and paid for.
            self._push()
        return self._summary()

    def _plan(self, tasks: Sequence[ScopeTask]) -> str:
        model, total = open_model(self._settings, self._environ), 0.0
        for task in tasks:
            calls, usd, text = estimate(task, model)
            total += usd
            self._tell(f"{task.scope} would take {plural(calls, 'call')} and ${usd:.2f} at the most: {text}")
        scopes = plural(len(tasks), "scope")
        return f"{scopes} would be merged for ${total:.2f} at the most; nothing is written"

    # -- merging

    def _synthesize(self, knowledge: Knowledge, tasks: Sequence[tuple[Scope, ScopeTask]]) -> None:
        model = open_model(self._settings, self._environ)
        if any(estimate(task, model)[0] for _, task in tasks):
            self._check_key()
        for scope, task in tasks:
            try:
                result = synthesize(
                    task,
                    model,
                    reject_above=self._settings.reject_above,
                    budget=self._settings.max_usd - self._usd,
                )
            except ProviderError as error:
                raise _TroubleError("provider", error) from error
            self._usd += result.usd
            self._outcomes.append(result.outcome)
            cost = f", ${result.usd:.2f}" if result.usd else ""
            self._tell(f"{result.scope} {result.outcome}: {result.text}{cost}")
            self._commit(knowledge, scope, result)

    def _commit(self, knowledge: Knowledge, scope: Scope, result: ScopeResult) -> None:
        now, inputs = int(self._clock.now()), inputs_of(knowledge, scope)
        commit_knowledge(
            self._store,
            lambda current: record(
                self._store, current, result, inputs, self._settings.provider, CI_MACHINE, now
            ),
            AUTHOR,
            now,
            f"{result.outcome} {result.scope}",
        )

    def _check_key(self) -> None:
        """Says that there is no key before anything is asked: a CI's secret that is not set is empty."""
        given = (
            self._environ.get(name, "").strip() for name in ("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN")
        )
        if not any(given) and not read_keyring(SERVICE, "anthropic"):
            raise _TroubleError("no-key", ProviderError("ANTHROPIC_API_KEY is not set here"))

    def _summary(self) -> str:
        counts = {outcome: self._outcomes.count(outcome) for outcome in dict.fromkeys(self._outcomes)}
        told = ", ".join(f"{plural(count, 'scope')} {outcome}" for outcome, count in counts.items())
        told += f", ${self._usd:.2f}" if self._usd else ""
        if counts.get("failed"):
            raise _TroubleError("scopes", ProviderError(told))
        return told

    # -- the hub

    def _fetch(self) -> bool:
        """Takes in what the hub has; False where it has nothing."""
        try:
            if KNOWLEDGE_REF not in self._peer.list():
                return False
            self._peer.fetch({KNOWLEDGE_REF: _TRACKING})
        except PeerError as error:
            raise _TroubleError("fetch-denied", error) from error
        tracked = ref_of(self._store, _TRACKING)
        if tracked is not None:
            advance_knowledge(self._store, tracked)
        return tracked is not None

    def _push(self) -> None:
        for _ in range(MAX_PUSHES):
            if self._tip() == ref_of(self._store, _TRACKING):
                return
            reason = self._offer()
            if reason is None:
                return
            if not is_behind(reason):
                raise _TroubleError("push-denied", PeerRefusedError(reason))
            self._tell("others pushed meanwhile; taking that in")
            self._fetch()
        raise _TroubleError("raced", PeerRefusedError(f"pushed {MAX_PUSHES} times, and was always behind"))

    def _tip(self) -> Oid | None:
        return ref_of(self._store, KNOWLEDGE_REF)

    def _offer(self) -> str | None:
        try:
            answer = self._peer.push([KNOWLEDGE_REF])
        except PeerRefusedError as error:
            raise _TroubleError("push-denied", error) from error
        return answer.get(KNOWLEDGE_REF, "the hub did not say what became of it")

    def _tell(self, text: str) -> None:
        self._say(f"convergence: {harmless(text)}")


class _Clone:
    """The clone that the CI made. It is only read."""

    def __init__(self, path: str, environ: Mapping[str, str]) -> None:
        self._path = path
        self._environ = environ

    def url_of(self, push: str) -> str:
        """The URL that a remote's name stands for, or `push` itself where it is a URL."""
        if "/" in push or ":" in push:
            return push
        code, out = self._git("remote", "get-url", "--push", push)
        if code != 0 or not out.strip():
            raise UsageError(f"{self._path} has no remote {push}", "run it in a clone of the hub")
        return out.strip()

    def settings(self) -> dict[str, str]:
        """The clone's own settings that open its remote, as an environment that hands them to git.

        Those of the user and of the system hold anyway.
        """
        code, out = self._git("config", "--list", "--show-scope", "-z")
        given: list[tuple[str, str]] = []
        parts = out.split("\0")
        for scope, setting in zip(parts[0::2], parts[1::2], strict=False):
            key, _, value = setting.partition("\n")
            if scope in ("local", "worktree") and key.lower().startswith(_PASSED_ON):
                given.append((key, value))
        if code != 0 or not given:
            return {}
        # What the environment has already comes first, as in the clone.
        count = int(self._environ.get("GIT_CONFIG_COUNT") or 0)
        found = {"GIT_CONFIG_COUNT": str(count + len(given))}
        for number, (key, value) in enumerate(given, count):
            found |= {f"GIT_CONFIG_KEY_{number}": key, f"GIT_CONFIG_VALUE_{number}": value}
        return found

    def _git(self, *arguments: str) -> tuple[int, str]:
        try:
            outcome = Programs().run(
                ["git", "-C", self._path, *arguments],
                environ={**self._environ, "LC_ALL": "C"},
                limits=Limits(_CONFIG_S, _CONFIG_S),
            )
        except OSError as error:
            raise UsageError("there is no git program here", "install git") from error
        return (outcome.code if outcome.end == "exit" else -1), outcome.out.decode("utf-8", "surrogateescape")


def _parse(arguments: Sequence[str] | None) -> Options:
    defaults = KnowledgeSettings(provider="anthropic")
    parser = argparse.ArgumentParser(
        prog="python -m convergenced.knowledge.pipeline",
        description="Merges what machines have shared on the branch `knowledge` of a hub, and pushes it.",
    )
    parser.add_argument("--repository", default=".", metavar="PATH", help="a clone of the hub")
    parser.add_argument(
        "--push", default="origin", metavar="REMOTE", help="the hub: a remote's name, or a URL"
    )
    parser.add_argument("--provider", choices=("anthropic", "none"), default=defaults.provider)
    parser.add_argument(
        "--model", default=defaults.model, help="which model; the provider's choice if not set"
    )
    parser.add_argument(
        "--max-usd", type=float, default=defaults.max_usd, help="what the run may cost at most"
    )
    parser.add_argument("--reject-above", type=int, default=defaults.reject_above, metavar="CLAIMS")
    parser.add_argument("--dry-run", action="store_true", help="only say what would be done")
    given = parser.parse_args(arguments)
    settings = KnowledgeSettings(
        provider=given.provider,
        model=given.model,
        max_usd=given.max_usd,
        reject_above=given.reject_above,
    )
    return Options(given.repository, given.push, settings, given.dry_run)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    return run(_parse(arguments), os.environ, lambda line: print(line, flush=True))


if __name__ == "__main__":
    sys.exit(main())
