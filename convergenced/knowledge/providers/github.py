"""Synthesis in GitHub Actions of the hub: started, followed to its end, explained where it fails.

Promise: the run that is followed is the one that was started: GitHub names it in its answer, or it is found
by a word that only we know, which the workflow puts into the run's name.
"""

from __future__ import annotations

import contextlib
import secrets
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any

from convergenced.knowledge.markers import read_ending
from convergenced.knowledge.provider import ProviderError
from convergenced.knowledge.providers.following import (
    AGAIN,
    LOG_TAIL,
    Phase,
    Remedies,
    default_branch,
    diagnose,
    follow,
    looks,
    no_repository,
)
from convergenced.knowledge.providers.http import Access, Api, ApiError, OutOfTimeError, Pace, Reply, segment
from convergenced.ports import Clock

WORKFLOW = "convergence.yml"
WORKFLOW_PATH = f".github/workflows/{WORKFLOW}"
VERSION = "2022-11-28"
"""Of the REST API; every supported GitHub Enterprise Server knows it."""
APPEARS_S = 120.0
"""Seconds in which a run that was asked for is listed, at the latest."""
CLOCKS_APART = timedelta(minutes=5)
"""How much earlier than asked for a run may seem to begin."""

SCAFFOLD = "write it there: convergencectl knowledge scaffold github"
RIGHTS = (
    "it needs the permission “Actions: read and write” for the hub's repository "
    "(a classic token: the scope “repo”)"
)
REMEDIES = Remedies(
    push="in the hub on GitHub: Settings → Actions → General → Workflow permissions → "
    "Read and write permissions",
    key="in the hub on GitHub: Settings → Secrets and variables → Actions → New repository secret "
    "ANTHROPIC_API_KEY",
    fetch="in the hub on GitHub: Settings → Actions → General → Workflow permissions",
    runner="see in the hub on GitHub: Settings → Actions → Runners, and whether the account has minutes left",
)


def github_headers() -> dict[str, str]:
    """What every request has."""
    return {"Accept": "application/vnd.github+json", "X-GitHub-Api-Version": VERSION}


@dataclass(frozen=True, slots=True)
class _Run:
    api: Api
    pace: Pace
    tell: Callable[[str], None]
    root: str
    """The repository's path in the API."""


class GitHubRunner:
    """One hub on GitHub. `repository` is its `owner/name`."""

    def __init__(
        self,
        repository: str,
        access: Access,
        *,
        clock: Clock,
        wait: Callable[[float], object] | None = None,
        nonce: Callable[[], str] = lambda: secrets.token_hex(8),
    ) -> None:
        self._repository = repository
        self._access = access
        self._clock = clock
        self._wait = wait
        self._nonce = nonce

    def run(self, stop: threading.Event, tell: Callable[[str], None], timeout: float) -> str:
        """Starts the workflow, follows it for `timeout` seconds at most, and says what became of it.

        Raises `ProviderError` with what went wrong and what to do about it.
        """
        pace = Pace(stop, timeout, clock=self._clock, wait=self._wait)
        owner, _, name = self._repository.partition("/")
        root = f"/repos/{segment(owner)}/{segment(name)}"
        run = _Run(Api(self._access, pace), pace, tell, root)
        branch = self._default_branch(run)
        where = f"{self._repository} on {self._access.host}"
        tell(f"asking for a run of {WORKFLOW} in {where}")
        number = self._start(run, branch)
        return self._finish(run, number)

    # -- starting

    def _default_branch(self, run: _Run) -> str:
        try:
            return default_branch(run.api.get(run.root))
        except ApiError as error:
            hidden = no_repository(f"{self._repository} on {self._access.host}", RIGHTS)
            raise self._explained(error, missing=hidden) from error

    def _start(self, run: _Run, branch: str) -> int:
        nonce = self._nonce()
        path = f"{run.root}/actions/workflows/{WORKFLOW}/dispatches"
        body = {"ref": branch, "inputs": {"nonce": nonce}}
        try:
            try:
                answer, reply = run.api.post(path, {**body, "return_run_details": True})
            except ApiError as error:
                if error.status != 422 or "return_run_details" not in error.said:
                    raise
                answer, reply = run.api.post(path, body)  # a server that does not know the word
        except ApiError as error:
            raise self._explained(error, missing=_no_workflow(self._repository, branch)) from error
        number = answer.get("workflow_run_id") if isinstance(answer, dict) else None
        return number if isinstance(number, int) else self._find(run, branch, nonce, reply)

    def _find(self, run: _Run, branch: str, nonce: str, reply: Reply) -> int:
        """The number of the run whose name holds `nonce`."""
        since = _served(reply, self._clock) - CLOCKS_APART
        query = {
            "event": "workflow_dispatch",
            "branch": branch,
            "created": f">={since:%Y-%m-%dT%H:%M:%SZ}",
            "per_page": "100",
        }
        begun = self._clock.monotonic()
        for seconds in looks():
            listed = self._get(run, f"{run.root}/actions/workflows/{WORKFLOW}/runs", query)
            for one in _list(listed, "workflow_runs"):
                if nonce in str(one.get("display_title", "")) and isinstance(one.get("id"), int):
                    return int(one["id"])
            if self._clock.monotonic() - begun >= APPEARS_S:
                break
            run.pace.pause(seconds)
        raise ProviderError(
            f"GitHub took the request, but no run of {WORKFLOW} appeared in {self._repository}",
            f"the workflow there may be another version's; {SCAFFOLD} --force",
        )

    # -- following

    def _finish(self, run: _Run, number: int) -> str:
        state: dict[str, Any] = {}

        def look() -> tuple[Phase, str]:
            found = self._get(run, f"{run.root}/actions/runs/{number}")
            state.update(found if isinstance(found, dict) else {})
            return _phase(str(state.get("status", ""))), f"{state.get('status')}: {state.get('html_url', '')}"

        try:
            begun = follow(look, run.pace, run.tell)
        except OutOfTimeError as error:
            raise ProviderError(
                f"the run was not done in time: {state.get('html_url', '')}",
                "it goes on there; look again later",
            ) from error
        where = str(state.get("html_url", ""))
        if not begun:
            raise ProviderError(f"no runner takes the run {where}", REMEDIES.runner)
        conclusion = str(state.get("conclusion"))
        if conclusion == "success":
            return self._success(run, number, where)
        raise self._failure(run, number, where, conclusion)

    def _success(self, run: _Run, number: int, where: str) -> str:
        jobs: list[dict[str, Any]] = []
        with contextlib.suppress(ProviderError):  # what it said would be nice to have, no more
            jobs = _list(self._get(run, f"{run.root}/actions/runs/{number}/jobs"), "jobs")
        ending = read_ending("\n".join(self._log(run, job) for job in jobs[:1]))
        return f"{ending.text} ({where})" if ending is not None else f"GitHub ran the synthesis ({where})"

    def _failure(self, run: _Run, number: int, where: str, conclusion: str) -> ProviderError:
        match conclusion:
            case "cancelled":
                return ProviderError(
                    f"the run was cancelled: {where}", f"by a person, or by a newer one; {AGAIN}"
                )
            case "timed_out":
                return ProviderError(
                    f"the run took longer than the workflow allows: {where}", f"see its log; {AGAIN}"
                )
            case "startup_failure":
                return ProviderError(
                    f"GitHub could not begin the run: {where}",
                    f"the workflow may be damaged; {SCAFFOLD} --force",
                )
            case "action_required":
                return ProviderError(f"the run waits for somebody's approval: {where}", "approve it there")
        jobs = _list(self._get(run, f"{run.root}/actions/runs/{number}/jobs"), "jobs")
        failed = next(
            (job for job in jobs if job.get("conclusion") not in (None, "success", "skipped")), None
        )
        if failed is None:
            return ProviderError(f"the run ended as “{conclusion}”", f"see {where}")
        steps = [one for one in _list(failed, "steps") if one.get("conclusion") == "failure"]
        step = f"the step “{steps[0].get('name')}”" if steps else f"the job “{failed.get('name')}”"
        return diagnose(self._log(run, failed), where, REMEDIES, f"{step} of the run failed")

    def _log(self, run: _Run, job: dict[str, Any]) -> str:
        """The end of a job's log; empty where it cannot be had, as it only explains."""
        try:
            return run.api.tail(f"{run.root}/actions/jobs/{int(job['id'])}/logs", LOG_TAIL)
        except (ProviderError, KeyError, ValueError, TypeError):
            return ""

    # -- refusals

    def _get(self, run: _Run, path: str, query: dict[str, str] | None = None) -> Any:
        try:
            return run.api.get(path, query)
        except ApiError as error:
            raise self._explained(error) from error

    def _explained(self, error: ApiError, missing: ProviderError | None = None) -> ProviderError:
        said = error.said.lower()
        if error.status == 401:
            return ProviderError(
                f"{self._access.host} does not accept the token ({error.said})",
                "set a valid one: GITHUB_TOKEN, or python -m keyring set convergence github",
            )
        if "disabled" in said and "workflow" in said:
            return ProviderError(
                f"the workflow {WORKFLOW} in {self._repository} is disabled",
                "enable it on GitHub: Actions → convergence → Enable workflow",
            )
        if "disabled" in said:
            return ProviderError(
                f"GitHub Actions are disabled in {self._repository} ({error.said})",
                "in the hub on GitHub: Settings → Actions → General → Allow actions",
            )
        if error.status == 403:
            return ProviderError(f"the token may not do this ({error.said})", RIGHTS)
        if error.status == 404 and missing is not None:
            return missing
        if error.status == 422:
            hint = f"the workflow may be missing or another version's; {SCAFFOLD} --force"
            return ProviderError(f"GitHub cannot start {WORKFLOW} in {self._repository}: {error.said}", hint)
        return ProviderError(error.summary, "see what is wrong there, then " + AGAIN)


def _no_workflow(repository: str, branch: str) -> ProviderError:
    elsewhere = "" if branch == "main" else f", after making main the default branch instead of {branch}"
    return ProviderError(f"{repository} has no workflow {WORKFLOW_PATH}", SCAFFOLD + elsewhere)


def _phase(status: str) -> Phase:
    match status:
        case "completed":
            return "over"
        case "in_progress" | "pending" | "waiting":  # the latter two: for another run, not for a runner
            return "running"
        case _:
            return "queued"


def _list(value: Any, name: str) -> list[dict[str, Any]]:
    found = value.get(name) if isinstance(value, dict) else None
    return [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []


def _served(reply: Reply, clock: Clock) -> datetime:
    try:
        return parsedate_to_datetime(reply.headers.get("date", "")).astimezone(UTC)
    except (ValueError, TypeError, OverflowError):
        return datetime.fromtimestamp(clock.now(), UTC)
