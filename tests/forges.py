"""GitHub and GitLab on the loopback interface: the documented endpoints that synthesis in a CI needs.

A forge has one repository and, once asked, runs one job in it: `job` does what the runner would and returns
whether that went well, and its log. `faults` are answered first, whatever is asked for.
"""

from __future__ import annotations

import contextlib
import json
import re
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, TypeVar
from urllib.parse import parse_qs, unquote, urlsplit

from tests.fakes.clock import FakeClock

TOKEN = "tok_4f2c9a71be0d4c55"
TRIGGER = "glptt-77aa12cc90ef"

S = TypeVar("S", bound="Server")
Job = Callable[[], tuple[bool, str]]


@dataclass
class Answer:
    """What a server answers. `body` is sent as JSON where it is no bytes."""

    status: int = 200
    body: object = None
    headers: Mapping[str, str] = field(default_factory=dict)
    announced: int | None = None
    """The length that is announced, where it is not the real one."""


@dataclass
class Asked:
    """A request as it came in."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: Any


class Server:
    """A web server on the loopback interface; `answer` is asked for everything."""

    def __init__(self) -> None:
        self.asked: list[Asked] = []
        self.faults: deque[Answer] = deque()
        owner = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self._serve()

            def do_POST(self) -> None:
                self._serve()

            def _serve(self) -> None:
                parts = urlsplit(self.path)
                raw = self.rfile.read(int(self.headers.get("Content-Length", "0")))
                query = {name: values[0] for name, values in parse_qs(parts.query).items()}
                headers = {name.lower(): value for name, value in self.headers.items()}
                asked = Asked(self.command, parts.path, query, headers, json.loads(raw) if raw else None)
                owner.asked.append(asked)
                answer = owner.faults.popleft() if owner.faults else owner.answer(asked)
                body = answer.body if isinstance(answer.body, bytes) else json.dumps(answer.body).encode()
                if answer.status == 204:
                    body = b""
                self.send_response(answer.status)
                for name, value in answer.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(answer.announced or len(body)))
                if answer.announced:
                    self.send_header("Connection", "close")
                    self.close_connection = True
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def answer(self, asked: Asked) -> Answer:
        raise NotImplementedError

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class Storage(Server):
    """Where GitHub keeps logs: signed addresses, which refuse whoever proves himself in a second way."""

    def __init__(self) -> None:
        super().__init__()
        self.files: dict[str, str] = {}

    def answer(self, asked: Asked) -> Answer:
        if "authorization" in asked.headers:
            return Answer(400, b"InvalidAuthenticationInfo")
        return Answer(200, self.files[asked.path].encode(), {"Content-Type": "text/plain"})


@dataclass
class Run:
    """A run that was started. `states` are what the next looks see; the last one stays."""

    number: int
    name: str
    created: datetime
    states: deque[str]
    good: bool = False
    log: str = ""
    done: bool = False


class Forge(Server):
    """What both have in common."""

    def __init__(self) -> None:
        super().__init__()
        self.default_branch = "main"
        self.has_file = True
        self.job: Job = lambda: (True, "convergence: done: 1 scope merged\n")
        self.states: list[str] = []
        self.runs: list[Run] = []

    def begin(self, name: str) -> Run:
        run = Run(1000 + len(self.runs), name, datetime.now(UTC), deque(self.states))
        self.runs.append(run)
        return run

    def look(self, number: int, over: str) -> tuple[Run, str]:
        """The run, and what this look sees. The job is run just before it is seen to be over."""
        run = next(run for run in self.runs if run.number == number)
        state = run.states.popleft() if len(run.states) > 1 else run.states[0]
        if state == over and not run.done:
            run.good, run.log = self.job()
            run.done = True
        return run, state


class GitHub(Forge):
    """https://docs.github.com/rest: repositories, workflows, workflow runs, workflow jobs."""

    def __init__(self) -> None:
        super().__init__()
        self.states = ["queued", "in_progress", "completed"]
        self.repository = "ann/context"
        self.conclusion = ""
        """How a run ends, where the job does not decide it."""
        self.returns_run = True
        self.knows_return = True
        self.inputs = {"nonce"}
        self.disabled = False
        self.appears_after = 0
        """Listings in which a new run is not seen yet."""
        self.failed_step = "Synthesize"
        self.storage = Storage()

    def close(self) -> None:
        self.storage.close()
        super().close()

    def answer(self, asked: Asked) -> Answer:
        if asked.headers.get("authorization") != f"Bearer {TOKEN}":
            return Answer(
                401, {"message": "Bad credentials", "documentation_url": "https://docs.github.com/rest"}
            )
        root = f"/repos/{self.repository}"
        if not unquote(asked.path).startswith(root):
            return Answer(404, {"message": "Not Found"})
        rest = asked.path.removeprefix(root)
        if (asked.method, rest) == ("GET", ""):
            return Answer(200, {"full_name": self.repository, "default_branch": self.default_branch})
        if workflow := re.fullmatch(r"/actions/workflows/([^/]+)(/dispatches|/runs)", rest):
            if not self.has_file or workflow[1] != "convergence.yml":
                return Answer(404, {"message": "Not Found"})
            return self._dispatch(asked) if workflow[2] == "/dispatches" else self._list(asked)
        if found := re.fullmatch(r"/actions/runs/([0-9]+)", rest):
            run, state = self.look(int(found[1]), "completed")
            return Answer(200, self._shown(run, state))
        if found := re.fullmatch(r"/actions/runs/([0-9]+)/jobs", rest):
            return Answer(200, {"total_count": 1, "jobs": [self._job(int(found[1]))]})
        if found := re.fullmatch(r"/actions/jobs/([0-9]+)/logs", rest):
            run = next(run for run in self.runs if run.number == int(found[1]) - 50_000)
            stamped = "".join(f"2026-01-01T10:00:00.1234567Z {line}\n" for line in run.log.splitlines())
            self.storage.files[f"/logs/{run.number}"] = "\ufeff" + stamped
            return Answer(302, b"", {"Location": f"{self.storage.url}/logs/{run.number}?sig=abc"})
        return Answer(404, {"message": "Not Found"})

    def _dispatch(self, asked: Asked) -> Answer:
        body = asked.body
        if not self.knows_return and "return_run_details" in body:
            return Answer(
                422, {"message": 'Invalid request.\n\n"return_run_details" is not a permitted key.'}
            )
        if self.disabled:
            return Answer(422, {"message": "Cannot trigger a 'workflow_dispatch' on a disabled workflow"})
        if body["ref"] != self.default_branch:
            return Answer(422, {"message": f"No ref found for: {body['ref']}"})
        unexpected = sorted(set(body.get("inputs", {})) - self.inputs)
        if unexpected:
            return Answer(422, {"message": f"Unexpected inputs provided: {json.dumps(unexpected)}"})
        run = self.begin(f"convergence {body['inputs']['nonce']}")
        if not (self.returns_run and body.get("return_run_details")):
            return Answer(204)
        url = f"{self.url}/repos/{self.repository}/actions/runs/{run.number}"
        return Answer(200, {"workflow_run_id": run.number, "run_url": url, "html_url": self._page(run)})

    def _list(self, asked: Asked) -> Answer:
        self.appears_after -= 1
        since = datetime.fromisoformat(asked.query["created"].removeprefix(">="))
        shown = [
            self._shown(run, run.states[0])
            for run in reversed(self.runs)
            if run.created >= since and asked.query["event"] == "workflow_dispatch" and self.appears_after < 0
        ]
        return Answer(200, {"total_count": len(shown), "workflow_runs": shown})

    def _shown(self, run: Run, state: str) -> dict[str, object]:
        conclusion = (
            (self.conclusion or ("success" if run.good else "failure")) if state == "completed" else None
        )
        return {
            "id": run.number,
            "name": "convergence",
            "display_title": run.name,
            "event": "workflow_dispatch",
            "status": state,
            "conclusion": conclusion,
            "html_url": self._page(run),
            "created_at": f"{run.created:%Y-%m-%dT%H:%M:%SZ}",
        }

    def _page(self, run: Run) -> str:
        return f"https://github.example/{self.repository}/actions/runs/{run.number}"

    def _job(self, number: int) -> dict[str, object]:
        run = next(run for run in self.runs if run.number == number)
        end = "success" if run.good else "failure"
        steps = [
            {"name": "Set up job", "status": "completed", "conclusion": "success", "number": 1},
            {"name": self.failed_step, "status": "completed", "conclusion": end, "number": 2},
        ]
        job = {"id": 50_000 + number, "run_id": number, "name": "synthesize", "status": "completed"}
        return {**job, "conclusion": end, "steps": steps}


class GitLab(Forge):
    """https://docs.gitlab.com/api: projects, pipeline triggers, pipelines, jobs."""

    def __init__(self) -> None:
        super().__init__()
        self.states = ["created", "pending", "running", "success"]
        self.project = "team/ann/context"
        self.failure_reason = "script_failure"
        self.yaml_errors: str | None = None
        self.has_jobs = True

    def answer(self, asked: Asked) -> Answer:
        root = "/api/v4/projects/" + self.project.replace("/", "%2F")
        if not asked.path.startswith(root):
            return Answer(404, {"message": "404 Project Not Found"})
        rest = asked.path.removeprefix(root)
        if rest == "/trigger/pipeline" and asked.method == "POST":
            if asked.body["token"] != TRIGGER:
                return Answer(404, {"message": "404 Not Found"})
            return self._create(asked)
        if asked.headers.get("private-token") != TOKEN:
            return Answer(401, {"message": "401 Unauthorized"})
        if (asked.method, rest) == ("GET", ""):
            return Answer(200, {"path_with_namespace": self.project, "default_branch": self.default_branch})
        if (asked.method, rest) == ("POST", "/pipeline"):
            return self._create(asked)
        if found := re.fullmatch(r"/pipelines/([0-9]+)", rest):
            run, state = self._look(int(found[1]))
            return Answer(200, {"id": run.number, "status": state, "yaml_errors": self.yaml_errors})
        if found := re.fullmatch(r"/pipelines/([0-9]+)/jobs", rest):
            return Answer(200, [self._job(int(found[1]))] if self.has_jobs else [])
        if found := re.fullmatch(r"/jobs/([0-9]+)/trace", rest):
            run = next(run for run in self.runs if run.number == int(found[1]) - 50_000)
            coloured = "".join(f"\x1b[0Ksection\r\n{line}\x1b[0;m\n" for line in run.log.splitlines())
            return Answer(200, coloured.encode(), {"Content-Type": "text/plain"})
        return Answer(404, {"message": "404 Not Found"})

    def _create(self, asked: Asked) -> Answer:
        if asked.body["ref"] != self.default_branch:
            return Answer(400, {"message": {"base": ["Reference not found"]}})
        if not self.has_file:
            return Answer(400, {"message": {"base": ["Missing CI config file"]}})
        run = self.begin("")
        page = f"https://gitlab.example/{self.project}/-/pipelines/{run.number}"
        return Answer(201, {"id": run.number, "status": run.states[0], "ref": "main", "web_url": page})

    def _look(self, number: int) -> tuple[Run, str]:
        run, state = self.look(number, "success")
        return run, "failed" if state == "success" and not run.good else state

    def _job(self, number: int) -> dict[str, object]:
        run = next(run for run in self.runs if run.number == number)
        job = {"id": 50_000 + number, "name": "synthesize", "stage": "test"}
        if run.good:
            return {**job, "status": "success"}
        return {**job, "status": "failed", "failure_reason": self.failure_reason}


@contextlib.contextmanager
def serving(server: S) -> Iterator[S]:
    """`server`, closed at the end."""
    try:
        yield server
    finally:
        server.close()


class Waiting:
    """Waits that pass at once. `then` is called with the number of each wait, from 1."""

    def __init__(self, then: Callable[[int], None] = lambda _: None) -> None:
        self.clock = FakeClock()
        self.waits: list[float] = []
        self._then = then

    def __call__(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.clock.advance(seconds)
        self._then(len(self.waits))


def http_date(after: timedelta) -> str:
    """A moment from now on, as HTTP writes it."""
    return f"{datetime.now(UTC) + after:%a, %d %b %Y %H:%M:%S GMT}"
