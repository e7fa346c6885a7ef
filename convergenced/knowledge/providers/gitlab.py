"""Synthesis in GitLab CI of the hub: started, followed to its end, explained where it fails.

Two tokens serve: an access token starts and follows a pipeline; a trigger token can start one and nothing
else, so that a machine that has only that starts it and leaves it alone.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
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
    no_repository,
)
from convergenced.knowledge.providers.http import Access, Api, ApiError, OutOfTimeError, Pace, segment
from convergenced.ports import Clock

PIPELINE_PATH = ".gitlab-ci.yml"

SCAFFOLD = "write it there: convergencectl knowledge scaffold gitlab"
RIGHTS = "it needs the scope “api” and the role Developer or more in the hub's project"
REMEDIES = Remedies(
    push="in the hub on GitLab: Settings → CI/CD → Job token permissions → Allow Git push requests to the "
    "repository; whoever starts the pipeline has to be allowed to push to the branch knowledge",
    key="in the hub on GitLab: Settings → CI/CD → Variables → Add variable ANTHROPIC_API_KEY (masked; if "
    "it is protected, the default branch has to be protected too)",
    fetch="in the hub on GitLab: Settings → CI/CD → Job token permissions",
    runner="see in the hub on GitLab: Settings → CI/CD → Runners, and whether minutes are left",
)

_ENDED = frozenset({"success", "failed", "canceled", "skipped", "manual"})
_UNBEGUN = frozenset({"created", "preparing", "pending", "scheduled"})
_JOB_REASONS = {
    "stuck_or_timeout_failure": ("no runner took the job, or it took too long", REMEDIES.runner),
    "no_matching_runner": ("no runner fits the job", REMEDIES.runner),
    "ci_quota_exceeded": ("the minutes of GitLab CI are used up", REMEDIES.runner),
    "job_execution_timeout": ("the job took longer than it may", AGAIN),
    "runner_system_failure": ("the runner failed", AGAIN),
    "user_blocked": ("whoever the token belongs to is blocked", RIGHTS),
}
"""What GitLab itself knows about a failed job, and what to do."""


class GitLabRunner:
    """One hub on GitLab. `project` is its full path.

    `access` has the access token, no credential where there is none; `trigger` is the trigger token, empty
    for none.
    """

    def __init__(
        self,
        project: str,
        access: Access,
        trigger: str,
        *,
        clock: Clock,
        wait: Callable[[float], object] | None = None,
    ) -> None:
        self._project = project
        self._access = access
        self._trigger = trigger
        self._clock = clock
        self._wait = wait
        self._root = f"/projects/{segment(project)}"

    def run(self, stop: threading.Event, tell: Callable[[str], None], timeout: float) -> str:
        """Starts a pipeline, follows it for `timeout` seconds at most, and says what became of it.

        Raises `ProviderError` with what went wrong and what to do about it.
        """
        pace = Pace(stop, timeout, clock=self._clock, wait=self._wait)
        api = Api(self._access, pace)
        branch = self._default_branch(api) if self._access.credential else "main"
        tell(f"asking for a pipeline of {self._project} on {self._access.host}")
        pipeline = self._start(api, branch)
        where = str(pipeline.get("web_url", ""))
        if not self._access.credential:
            return f"started {where}; it is not followed, as there is no GITLAB_TOKEN"
        if not isinstance(pipeline.get("id"), int):
            raise ProviderError("GitLab did not name the pipeline that it started", AGAIN)
        return self._finish(api, pace, tell, int(pipeline["id"]), where)

    # -- starting

    def _default_branch(self, api: Api) -> str:
        try:
            return default_branch(api.get(self._root))
        except ApiError as error:
            hidden = no_repository(f"{self._project} on {self._access.host}", RIGHTS)
            raise self._explained(error, missing=hidden) from error

    def _start(self, api: Api, branch: str) -> dict[str, Any]:
        missing = None
        try:
            if self._trigger:
                missing = ProviderError(
                    f"{self._access.host} knows no trigger token like this for {self._project}",
                    "set a valid one: GITLAB_TRIGGER_TOKEN, or python -m keyring set convergence "
                    "gitlab-trigger",
                )
                body = {"token": self._trigger, "ref": branch}
                answer, _ = api.post(f"{self._root}/trigger/pipeline", body)
            else:
                answer, _ = api.post(f"{self._root}/pipeline", {"ref": branch})
        except ApiError as error:
            raise self._explained(error, missing=missing, branch=branch) from error
        return answer if isinstance(answer, dict) else {}

    # -- following

    def _finish(self, api: Api, pace: Pace, tell: Callable[[str], None], number: int, where: str) -> str:
        path = f"{self._root}/pipelines/{number}"
        state: dict[str, Any] = {}

        def look() -> tuple[Phase, str]:
            found = self._get(api, path)
            state.update(found if isinstance(found, dict) else {})
            status = str(state.get("status", ""))
            return _phase(status), f"{status}: {where}"

        try:
            begun = follow(look, pace, tell)
        except OutOfTimeError as error:
            raise ProviderError(
                f"the pipeline was not done in time: {where}", "it goes on there; look again later"
            ) from error
        if not begun:
            raise ProviderError(f"no runner takes the pipeline {where}", REMEDIES.runner)
        jobs: list[dict[str, Any]] = []
        with contextlib.suppress(ProviderError):  # they only say more about how it ended
            jobs = _jobs(self._get(api, f"{path}/jobs"))
        status = str(state.get("status"))
        if status != "success":
            raise self._failure(api, status, str(state.get("yaml_errors") or ""), jobs, where)
        ending = read_ending("\n".join(self._trace(api, job) for job in jobs[:1]))
        return f"{ending.text} ({where})" if ending is not None else f"GitLab ran the synthesis ({where})"

    def _failure(
        self, api: Api, status: str, errors: str, jobs: list[dict[str, Any]], where: str
    ) -> ProviderError:
        if status == "canceled":
            return ProviderError(f"the pipeline was cancelled: {where}", f"by a person; {AGAIN}")
        if errors:
            return ProviderError(f"GitLab cannot read {PIPELINE_PATH}: {errors}", f"{SCAFFOLD} --force")
        failed = next((job for job in jobs if job.get("status") == "failed"), None)
        if failed is None:
            return ProviderError(f"the pipeline ended as “{status}”", f"see {where}")
        known = _JOB_REASONS.get(str(failed.get("failure_reason")))
        if known is not None:
            return ProviderError(f"{known[0]}: {where}", known[1])
        return diagnose(
            self._trace(api, failed),
            where,
            REMEDIES,
            f"the job “{failed.get('name')}” of the pipeline failed",
        )

    def _trace(self, api: Api, job: dict[str, Any]) -> str:
        """The end of a job's log; empty where it cannot be had, as it only explains."""
        try:
            return api.tail(f"{self._root}/jobs/{int(job['id'])}/trace", LOG_TAIL)
        except (ProviderError, KeyError, ValueError, TypeError):
            return ""

    # -- refusals

    def _get(self, api: Api, path: str) -> Any:
        try:
            return api.get(path)
        except ApiError as error:
            raise self._explained(error) from error

    def _explained(
        self, error: ApiError, missing: ProviderError | None = None, branch: str = ""
    ) -> ProviderError:
        said = error.said.lower()
        if error.status == 401:
            return ProviderError(
                f"{self._access.host} does not accept the token ({error.said})",
                "set a valid one: GITLAB_TOKEN, or python -m keyring set convergence gitlab",
            )
        if error.status == 403:
            return ProviderError(
                f"the token may not do this ({error.said})",
                f"{RIGHTS}; and the project has to allow CI/CD: Settings → General → Visibility → CI/CD",
            )
        if error.status == 400 and any(
            word in said for word in ("missing", "filtered", "empty", "not found")
        ):
            elsewhere = "" if branch in ("", "main") else f" (its default branch is {branch}, not main)"
            return ProviderError(
                f"{self._project} has no {PIPELINE_PATH} that this can start: {error.said}{elsewhere}",
                SCAFFOLD,
            )
        if error.status == 404 and missing is not None:
            return missing
        return ProviderError(error.summary, "see what is wrong there, then " + AGAIN)


def _phase(status: str) -> Phase:
    if status in _ENDED:
        return "over"
    return "queued" if status in _UNBEGUN else "running"


def _jobs(value: Any) -> list[dict[str, Any]]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []
