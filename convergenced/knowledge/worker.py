"""Work with a model in a process beside the daemon, which then stays small and can end it at any time.

Run as a program, it reads one request as JSON (to synthesize scopes, or to compose first documents) and says
what it does in lines of JSON: a result for each scope as soon as it is made. Without a model nothing is
started. What was made before trouble began is kept.
"""

from __future__ import annotations

import base64
import json
import math
import os
import signal
import sys
import threading
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import IO, Any, Generic, Literal, TypeVar

from convergenced.canon.secrets import find_secrets
from convergenced.knowledge.composing import Draft, DraftTask, compose_drafts, pack_tasks, unpack_tasks
from convergenced.knowledge.provider import Model, ProviderError
from convergenced.knowledge.synthesis import DocumentTask, ScopeResult, ScopeTask, estimate, synthesize
from convergenced.machine.settings_schema import KnowledgeSettings
from convergenced.merge.markdown import Version
from convergenced.store.program import Limits, Outcome, Programs

LONGEST = 3600.0
"""Seconds that one run may take."""

NICENESS = 10

_OUTCOMES: tuple[Literal["copied", "merged", "rejected", "failed"], ...] = (
    "copied",
    "merged",
    "rejected",
    "failed",
)

_LOOK = 0.2
"""Seconds between looks at whether to stop."""

MadeT = TypeVar("MadeT", bound=ScopeResult | Draft)


@dataclass(frozen=True, slots=True)
class ScopePlan:
    """What the synthesis of a scope would take: calls and dollars at the most, and what it does, in words."""

    scope: str
    calls: int
    usd: float
    text: str


def open_model(settings: KnowledgeSettings, environ: Mapping[str, str]) -> Model | None:
    """The model that the settings name; None where there is none, or a hub asks it."""
    if settings.provider == "anthropic":
        from convergenced.knowledge.providers.anthropic_api import AnthropicModel  # noqa: PLC0415 (only then)

        return AnthropicModel(settings.model, environ)
    if settings.provider == "claude":
        from convergenced.knowledge.providers.claude_client import ClaudeModel  # noqa: PLC0415 (only then)

        return ClaudeModel(settings.model, environ)
    return None


def plan_work(
    tasks: Sequence[ScopeTask], settings: KnowledgeSettings, environ: Mapping[str, str]
) -> list[ScopePlan]:
    """What `run_worker` would do. Asks nobody, and needs no key."""
    model = open_model(settings, environ)
    return [ScopePlan(task.scope, *estimate(task, model)) for task in tasks]


def run_worker(
    tasks: Sequence[ScopeTask],
    settings: KnowledgeSettings,
    environ: Mapping[str, str],
    *,
    allowed: Iterable[str],
    salt: bytes,
    stop: threading.Event,
    tell: Callable[[str], None],
) -> list[ScopeResult]:
    """Synthesizes scopes, one result for each; ends early once `stop` is set. `tell` hears how far it is.

    Raises `ProviderError` for what concerns every scope, where none was made before it was met.
    """
    fingerprints = frozenset(allowed)
    heard = _Heard(tell, _result)
    if open_model(settings, environ) is None:
        _work(tasks, settings, None, fingerprints, salt, heard.take)
    elif tasks:
        _run_beside(_request(tasks, settings, fingerprints, salt), environ, stop, heard)
    return heard.results(tasks, _failed)


def run_composer(
    tasks: Sequence[DraftTask],
    settings: KnowledgeSettings,
    environ: Mapping[str, str],
    *,
    stop: threading.Event,
    tell: Callable[[str], None],
) -> list[Draft]:
    """Composes first documents, one for each task; ends early once `stop` is set.

    Raises `ProviderError` for what concerns all of them, where none was made before it was met.
    """
    heard = _Heard(tell, Draft.unpack)
    if open_model(settings, environ) is None:
        compose_drafts(tasks, None, settings.max_usd, heard.take)
    elif tasks:
        request = {"drafts": pack_tasks(tasks), "settings": asdict(settings)}
        _run_beside(json.dumps(request).encode("ascii"), environ, stop, heard)
    return heard.results(tasks, lambda scope, text: Draft(scope, None, trouble=text))


def _failed(scope: str, text: str) -> ScopeResult:
    return ScopeResult(scope, "failed", text=text)


class _Heard(Generic[MadeT]):
    """What was said of the work so far, piece by piece. `unpack` is what makes a result of its fields."""

    def __init__(self, tell: Callable[[str], None], unpack: Callable[[Mapping[str, Any]], MadeT]) -> None:
        self._tell = tell
        self._unpack = unpack
        self._rest = b""
        self._made: dict[str, MadeT] = {}
        self._trouble: ProviderError | None = None
        self.has_ended = False

    def piece(self, data: bytes) -> None:
        """A piece of lines of JSON. Raises `ProviderError` for what is none."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            try:
                said = json.loads(line)
                self.take(self._unpack(said["result"]) if "result" in said else said)
            except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
                raise ProviderError("the process that synthesizes does not say what it should") from None

    def take(self, said: MadeT | Mapping[str, Any]) -> None:
        """One thing that was said."""
        if not isinstance(said, Mapping):
            self._made[said.scope] = said
        elif "tell" in said:
            self._tell(str(said["tell"]))
        elif "error" in said:
            self.fail(ProviderError(str(said["error"]), str(said["hint"])))
        elif "end" in said:
            self.has_ended = True

    def fail(self, error: ProviderError) -> None:
        """Something that concerns all that is not made yet."""
        self._trouble = self._trouble or error

    def results(
        self, tasks: Iterable[ScopeTask | DraftTask], failed: Callable[[str, str], MadeT]
    ) -> list[MadeT]:
        """A result for each task; `failed` makes one of a scope and why nothing else came of it."""
        if self._trouble is not None and not self._made:
            raise self._trouble
        text = str(self._trouble or "nothing was said of it")
        return [self._made.get(task.scope) or failed(task.scope, text) for task in tasks]


def _work(
    tasks: Sequence[ScopeTask],
    settings: KnowledgeSettings,
    model: Model | None,
    allowed: Container[str],
    salt: bytes,
    say: Callable[[ScopeResult | Mapping[str, Any]], None],
) -> None:
    """Synthesizes one scope after the other, with what the former ones left of the money."""
    spent = 0.0
    try:
        for number, task in enumerate(tasks, 1):
            say({"tell": f"{task.scope} ({number} of {len(tasks)})"})
            result = synthesize(
                task,
                model,
                reject_above=settings.reject_above,
                budget=settings.max_usd - spent,
                allowed=allowed,
                salt=salt,
            )
            spent += result.usd
            say(result)
    except ProviderError as error:
        say({"error": error.summary, "hint": error.hint})
    say({"end": True})


def _run_beside(
    request: bytes, environ: Mapping[str, str], stop: threading.Event, heard: _Heard[Any]
) -> None:
    programs = Programs()
    try:
        with _closing(programs, stop):
            outcome = programs.run(
                [sys.executable, "-P", "-m", "convergenced.knowledge.worker"],
                environ=environ,
                limits=Limits(LONGEST, LONGEST),
                given=request,
                hear=heard.piece,
            )
    except OSError as error:
        heard.fail(ProviderError(f"the process that synthesizes cannot be started: {error.strerror}"))
    except ProviderError as error:
        heard.fail(error)
    else:
        if not heard.has_ended:
            heard.fail(_diagnosed(outcome, environ))


@contextmanager
def _closing(programs: Programs, stop: threading.Event) -> Iterator[None]:
    """Ends the programs as soon as `stop` is set."""
    done = threading.Event()

    def watch() -> None:
        while not done.wait(_LOOK):
            if stop.is_set():
                programs.close()
                return

    watching = threading.Thread(target=watch, name="knowledge-stop", daemon=True)
    watching.start()
    try:
        yield
    finally:
        done.set()
        watching.join()


def _diagnosed(outcome: Outcome, environ: Mapping[str, str]) -> ProviderError:
    """Why a process ended before its work did."""
    match outcome.end:
        case "closed":
            return ProviderError("the synthesis was interrupted", "it is taken up again by itself")
        case "overall" | "stall":
            return ProviderError(f"the synthesis took more than {LONGEST / 60:.0f} minutes and was ended")
        case "flood":
            return ProviderError("the process that synthesizes says far too much, and was ended")
    lines = _redacted(outcome.err, environ).strip().splitlines()
    last = f": {lines[-1][:300]}" if lines else ""
    return ProviderError(f"the process that synthesizes ended ({outcome.code}){last}")


def _redacted(text: str, environ: Mapping[str, str]) -> str:
    """What a process complained of, without keys and secrets."""
    for name, value in environ.items():
        if len(value) >= 4 and name.endswith(("_KEY", "_TOKEN", "_SECRET", "_PASSWORD")):
            text = text.replace(value, "(key)")
    data = text.encode()
    for secret in reversed(find_secrets(data, b"")):
        data = data[: secret.start] + b"(secret)" + data[secret.end :]
    return "".join(char for char in data.decode("utf-8", "replace") if char.isprintable() or char == "\n")


# -- between the processes


def _request(
    tasks: Sequence[ScopeTask], settings: KnowledgeSettings, allowed: Iterable[str], salt: bytes
) -> bytes:
    documents = [
        [
            {
                "path": document.path,
                "current": _packed(document.current),
                "versions": [
                    [one.machine, _packed(one.data), _packed(one.base)] for one in document.versions
                ],
            }
            for document in task.documents
        ]
        for task in tasks
    ]
    return json.dumps(
        {
            "scopes": [task.scope for task in tasks],
            "documents": documents,
            "settings": asdict(settings),
            "allowed": sorted(allowed),
            "salt": salt.hex(),
        }
    ).encode("ascii")


def _tasks(request: Mapping[str, Any]) -> list[ScopeTask]:
    return [
        ScopeTask(
            scope,
            tuple(
                DocumentTask(
                    one["path"],
                    _unpacked(one["current"]),
                    tuple(
                        Version(machine, _unpacked(data) or b"", _unpacked(base))
                        for machine, data, base in one["versions"]
                    ),
                )
                for one in documents
            ),
        )
        for scope, documents in zip(request["scopes"], request["documents"], strict=True)
    ]


def _result(fields: Mapping[str, Any]) -> ScopeResult:
    """What `_line` made these fields of; raises what `_Heard.piece` expects for anything else."""
    (outcome,) = (one for one in _OUTCOMES if one == fields["outcome"])
    usd = float(fields["usd"])
    if not 0 <= usd < math.inf:
        raise ValueError(f"nothing costs {usd}")
    return ScopeResult(
        **{name: str(fields[name]) for name in ("scope", "model", "prompt", "text")},
        outcome=outcome,
        documents={path: _unpacked(data) or b"" for path, data in fields["documents"].items()},
        marks=tuple(map(str, fields["marks"])),
        claims=tuple(map(str, fields["claims"])),
        usd=usd,
    )


def _line(said: ScopeResult | Draft | Mapping[str, Any]) -> bytes:
    if isinstance(said, Draft):
        said = {"result": said.pack()}
    elif isinstance(said, ScopeResult):
        fields = asdict(said)
        fields["documents"] = {path: _packed(data) for path, data in said.documents.items()}
        said = {"result": fields}
    return json.dumps(said).encode("ascii") + b"\n"


def _packed(data: bytes | None) -> str | None:
    return None if data is None else base64.b64encode(data).decode("ascii")


def _unpacked(text: str | None) -> bytes | None:
    return None if text is None else base64.b64decode(text, validate=True)


def serve(source: IO[bytes], sink: IO[bytes], environ: Mapping[str, str]) -> None:
    """Does what one request asks for."""
    request = json.loads(source.read())
    settings = KnowledgeSettings(**request["settings"])

    def say(said: ScopeResult | Draft | Mapping[str, Any]) -> None:
        sink.write(_line(said))
        sink.flush()

    try:
        model = open_model(settings, environ)
    except ProviderError as error:
        say({"error": error.summary, "hint": error.hint})
        say({"end": True})
        return
    if "drafts" in request:
        compose_drafts(unpack_tasks(request["drafts"]), model, settings.max_usd, say)
        return
    _work(
        _tasks(request), settings, model, frozenset(request["allowed"]), bytes.fromhex(request["salt"]), say
    )


def _main() -> None:
    # What a model runs itself is ended with this process only if this one leaves by an exception.
    signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit(128 + signal.SIGTERM))
    os.nice(NICENESS)
    sink = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what a library prints is no answer
    serve(sys.stdin.buffer, sink, os.environ)


if __name__ == "__main__":
    _main()
