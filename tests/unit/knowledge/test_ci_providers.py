"""Synthesis in a hub's CI: which hub, with which token, followed to its end, and each way to fail."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta

import pytest

from convergenced.knowledge.markers import Trouble, failed
from convergenced.knowledge.provider import ProviderError
from convergenced.knowledge.providers.ci import Runner, open_runner
from convergenced.knowledge.providers.following import QUEUED_S
from convergenced.knowledge.providers.http import StoppedError
from convergenced.knowledge.providers.hubs import Hosted, api_base, hosted_at
from convergenced.machine.settings_schema import KnowledgeSettings, PeerSettings
from tests.forges import TOKEN, TRIGGER, Answer, Forge, GitHub, GitLab, Run, Waiting, serving

PEERS = [
    PeerSettings("nas", "/srv/hub.git"),
    PeerSettings("gh", "git@github.com:ann/context.git"),
    PeerSettings("gl", "https://gitlab.example.com:8443/team/ann/context.git"),
]


@pytest.fixture
def github() -> Iterator[GitHub]:
    with serving(GitHub()) as forge:
        yield forge


@pytest.fixture
def gitlab() -> Iterator[GitLab]:
    with serving(GitLab()) as forge:
        yield forge


def empty(service: str, name: str) -> str | None:
    return None


def runner(forge: Forge, waiting: Waiting, environ: dict[str, str] | None = None) -> Runner:
    kind, api = ("github", forge.url) if isinstance(forge, GitHub) else ("gitlab", f"{forge.url}/api/v4")
    if environ is None:
        environ = {"GITHUB_TOKEN": TOKEN, "GITLAB_TOKEN": TOKEN}
    settings = KnowledgeSettings(provider=kind, api_url=api, peer="gh" if kind == "github" else "gl")  # type: ignore[arg-type]
    return open_runner(settings, PEERS, environ, keyring=empty, clock=waiting.clock, wait=waiting)


def run(forge: Forge, waiting: Waiting | None = None, environ: dict[str, str] | None = None) -> str:
    return runner(forge, waiting or Waiting(), environ).run(threading.Event(), lambda _: None, 3600.0)


def refusal(
    forge: Forge, waiting: Waiting | None = None, environ: dict[str, str] | None = None
) -> ProviderError:
    with pytest.raises(ProviderError) as caught:
        run(forge, waiting, environ)
    assert TOKEN not in str(caught.value)
    assert TRIGGER not in str(caught.value)
    return caught.value


def job(log: str, good: bool = False) -> tuple[bool, str]:
    return good, f"Run python -m convergenced.knowledge.pipeline\n{log}\n##[error]Process completed.\n"


# -- which hub


@pytest.mark.parametrize(
    ("url", "forge", "host", "path", "base"),
    [
        ("git@github.com:ann/context.git", "github", "github.com", "ann/context", "https://api.github.com"),
        ("ssh://git@ssh.github.com:443/ann/context.git", "github", "github.com", "ann/context", "https://api.github.com"),
        ("https://github.com/ann/context", "github", "github.com", "ann/context", "https://api.github.com"),
        ("https://x:y@github.com/ann/context.git/", "github", "github.com", "ann/context", "https://api.github.com"),
        ("git@git.example.com:ann/context", "github", "git.example.com", "ann/context", "https://git.example.com/api/v3"),
        ("ssh://git@gitlab.com/a/b/c.git", "gitlab", "gitlab.com", "a/b/c", "https://gitlab.com/api/v4"),
        ("git@altssh.gitlab.com:a/b.git", "gitlab", "gitlab.com", "a/b", "https://gitlab.com/api/v4"),
        ("https://git.example.com:8443/a/b.git", "gitlab", "git.example.com", "a/b", "https://git.example.com:8443/api/v4"),
        ("http://localhost:3000/a/b.git", "gitlab", "localhost", "a/b", "http://localhost:3000/api/v4"),
        ("git@[::1]:a/b.git", "gitlab", "::1", "a/b", "https://[::1]/api/v4"),
    ],
)  # fmt: skip
def test_where_a_hub_is(url: str, forge: str, host: str, path: str, base: str) -> None:
    hub = hosted_at(forge, PeerSettings("hub", url))  # type: ignore[arg-type]
    assert isinstance(hub, Hosted)
    assert (hub.host, hub.path) == (host, path)
    assert api_base(forge, hub) == base  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "url",
    ["/srv/hub.git", "~/hub.git", "file:///srv/hub.git", "git@github.com:context.git", "https://github.com/a/b/c",
     "https://github.com/../x", "http://github.com/a/b", "git@github.com:a/.git"],
)  # fmt: skip
def test_what_is_no_repository_on_github(url: str) -> None:
    assert hosted_at("github", PeerSettings("hub", url)) is None


def chosen(settings: KnowledgeSettings, peers: Sequence[PeerSettings] = PEERS) -> str:
    made = open_runner(settings, peers, {"GITHUB_TOKEN": TOKEN, "GITLAB_TOKEN": TOKEN}, keyring=empty)
    return f"{made._access.base} {getattr(made, '_repository', '') or getattr(made, '_project', '')}"  # type: ignore[attr-defined]


def test_the_first_hub_that_fits_is_taken() -> None:
    assert chosen(KnowledgeSettings(provider="github")) == "https://api.github.com ann/context"
    assert (
        chosen(KnowledgeSettings(provider="gitlab"))
        == "https://gitlab.example.com:8443/api/v4 team/ann/context"
    )


def test_a_hub_whose_name_does_not_tell() -> None:
    peers = [
        PeerSettings("one", "git@code.example.com:a/b.git"),
        PeerSettings("two", "git@git.example.org:c/d.git"),
    ]
    with pytest.raises(ProviderError, match="no peer is on GitHub"):
        chosen(KnowledgeSettings(provider="github"), peers)
    assert (
        chosen(KnowledgeSettings(provider="github", peer="two"), peers)
        == "https://git.example.org/api/v3 c/d"
    )
    asked = KnowledgeSettings(provider="github", api_url="https://git.example.org/api/v3")
    assert chosen(asked, peers) == "https://git.example.org/api/v3 c/d"
    asked = KnowledgeSettings(provider="gitlab", api_url="https://api.elsewhere.org/v4")
    assert chosen(asked, peers) == "https://api.elsewhere.org/v4 a/b"


def test_a_hub_that_is_none() -> None:
    with pytest.raises(ProviderError, match="no peer named hub") as caught:
        chosen(KnowledgeSettings(provider="github", peer="hub"))
    assert "nas, gh, gl" in caught.value.hint
    with pytest.raises(ProviderError, match="nas is no repository on Github"):
        chosen(KnowledgeSettings(provider="github", peer="nas"))


# -- tokens


def test_there_is_no_token(github: GitHub, gitlab: GitLab) -> None:
    assert "GITHUB_TOKEN" in refusal(github, environ={}).hint
    assert "GITLAB_TOKEN" in refusal(gitlab, environ={}).hint
    assert github.asked == gitlab.asked == []


def test_a_token_of_the_keyring(github: GitHub) -> None:
    kept = {("convergence", "github"): TOKEN + "\n"}
    settings = KnowledgeSettings(provider="github", api_url=github.url, peer="gh")
    waiting = Waiting()
    made = open_runner(
        settings, PEERS, {}, keyring=lambda *name: kept.get(name), clock=waiting.clock, wait=waiting
    )
    assert "1 scope merged" in made.run(threading.Event(), lambda _: None, 600.0)


def test_the_second_variable(github: GitHub) -> None:
    assert "1 scope merged" in run(github, environ={"GITHUB_TOKEN": "", "GH_TOKEN": TOKEN})


def test_a_token_that_cannot_be_one(github: GitHub) -> None:
    error = refusal(github, environ={"GITHUB_TOKEN": "two\r\nX-Evil: 1"})
    assert "GITHUB_TOKEN" in error.summary
    assert "Evil" not in str(error)


def test_a_token_is_in_no_repr() -> None:
    made = open_runner(KnowledgeSettings(provider="github"), PEERS, {"GITHUB_TOKEN": TOKEN}, keyring=empty)
    assert TOKEN not in repr(made._access)  # type: ignore[attr-defined]


# -- GitHub


def test_github_runs_it(github: GitHub) -> None:
    told: list[str] = []
    waiting = Waiting()
    said = runner(github, waiting).run(threading.Event(), told.append, 3600.0)
    assert said == "1 scope merged (https://github.example/ann/context/actions/runs/1000)"
    assert [line.partition(":")[0] for line in told[1:]] == ["queued", "in_progress", "completed"]
    assert waiting.waits == [2.0, 3.0]
    assert len(github.runs) == 1


def test_looks_become_rarer(github: GitHub) -> None:
    github.states = ["queued", *["in_progress"] * 20, "completed"]
    waiting = Waiting()
    run(github, waiting)
    assert waiting.waits == sorted(waiting.waits)
    assert waiting.waits[-1] == 20.0


@pytest.mark.parametrize("knows", [True, False])
def test_the_run_is_found_by_its_name(github: GitHub, knows: bool) -> None:
    github.returns_run, github.knows_return, github.appears_after = False, knows, 2
    before, now = timedelta(days=1), datetime.now(UTC)
    github.runs = [
        Run(1, "convergence 00ff00ff00ff00ff", now - before, github.begin("old").states),
        Run(2, "convergence 11ff11ff11ff11ff", now, github.begin("other").states),
    ]
    said = run(github)
    assert said.endswith("/actions/runs/1002)")


def test_the_run_never_appears(github: GitHub) -> None:
    github.returns_run, github.appears_after = False, 10_000
    error = refusal(github)
    assert "no run of convergence.yml appeared" in error.summary
    assert "scaffold github --force" in error.hint


def test_a_token_for_logs_goes_to_github_alone(github: GitHub) -> None:
    run(github)
    assert len(github.storage.asked) == 1
    assert "authorization" not in github.storage.asked[0].headers


def test_github_does_not_accept_the_token(github: GitHub) -> None:
    error = refusal(github, environ={"GITHUB_TOKEN": "wrong_token_0123"})
    assert error.summary == f"{github.url[7:]} does not accept the token (Bad credentials)"
    assert "GITHUB_TOKEN" in error.hint
    assert "wrong_token_0123" not in str(error)


def test_the_repository_is_not_there(github: GitHub) -> None:
    github.repository = "bob/other"
    error = refusal(github)
    assert "no ann/context on" in error.summary
    assert "Actions: read and write" in error.hint


def test_the_workflow_is_not_there(github: GitHub) -> None:
    github.has_file = False
    error = refusal(github)
    assert error.summary == "ann/context has no workflow .github/workflows/convergence.yml"
    assert error.hint == "write it there: convergencectl knowledge scaffold github"
    github.default_branch = "project/one"
    assert "making main the default branch instead of project/one" in refusal(github).hint


def test_the_token_may_not_start_it(github: GitHub) -> None:
    github.faults.extend(
        [
            Answer(200, {"default_branch": "main"}),
            Answer(403, {"message": "Resource not accessible by personal access token"}),
        ]
    )
    error = refusal(github)
    assert "the token may not do this" in error.summary
    assert "Actions: read and write" in error.hint


def test_the_workflow_is_disabled(github: GitHub) -> None:
    github.disabled = True
    error = refusal(github)
    assert error.summary == "the workflow convergence.yml in ann/context is disabled"
    assert "Enable workflow" in error.hint


def test_actions_are_disabled(github: GitHub) -> None:
    github.faults.extend(
        [
            Answer(200, {"default_branch": "main"}),
            Answer(403, {"message": "Actions has been disabled for this user."}),
        ]
    )
    assert "Settings → Actions → General" in refusal(github).hint


def test_the_workflow_is_another_ones(github: GitHub) -> None:
    github.inputs = set()
    error = refusal(github)
    assert "Unexpected inputs provided" in error.summary
    assert "scaffold github --force" in error.hint


@pytest.mark.parametrize(
    ("conclusion", "summary", "hint"),
    [
        ("cancelled", "the run was cancelled", "knowledge synthesize"),
        ("timed_out", "took longer than the workflow allows", "knowledge synthesize"),
        ("startup_failure", "could not begin", "scaffold github --force"),
        ("action_required", "approval", "approve"),
        ("neutral", "ended as “neutral”", "see https://"),
    ],
)
def test_how_else_a_run_can_end(github: GitHub, conclusion: str, summary: str, hint: str) -> None:
    github.conclusion = conclusion
    error = refusal(github)
    assert summary in error.summary
    assert "https://github.example/ann/context/actions/runs/1000" in str(error)
    assert hint in error.hint


def test_nobody_takes_the_run(github: GitHub) -> None:
    github.states = ["queued"]
    waiting = Waiting()
    error = refusal(github, waiting)
    assert "no runner takes the run" in error.summary
    assert "Runners" in error.hint
    assert QUEUED_S <= sum(waiting.waits) < QUEUED_S + 40


def test_waiting_for_another_run_is_not_waiting_for_a_runner(github: GitHub) -> None:
    github.states = [*["pending"] * 100, "in_progress", "completed"]
    assert "1 scope merged" in run(github)


def test_it_takes_too_long(github: GitHub) -> None:
    github.states = ["in_progress"]
    error = refusal(github)
    assert "not done in time" in error.summary


def test_it_is_stopped(github: GitHub) -> None:
    stop = threading.Event()
    github.states = ["in_progress"]
    waiting = Waiting(lambda number: stop.set() if number == 3 else None)
    with pytest.raises(StoppedError):
        runner(github, waiting).run(stop, lambda _: None, 3600.0)
    assert len(waiting.waits) == 3


@pytest.mark.parametrize("where", [0, 1, 2, 4])
def test_a_limit_in_between_is_waited_for(github: GitHub, where: int) -> None:
    """The limit strikes at each of the requests in turn."""
    waiting = Waiting()
    told: list[str] = []
    limited = Answer(403, {"message": "You have exceeded a secondary rate limit."}, {"Retry-After": "77"})
    real, seen = github.answer, [0]

    def answer(asked: object) -> Answer:
        seen[0] += 1
        return limited if seen[0] == where + 1 else real(asked)  # type: ignore[arg-type]

    github.answer = answer  # type: ignore[method-assign]
    runner(github, waiting).run(threading.Event(), told.append, 3600.0)
    assert 77.0 in waiting.waits
    assert len(github.runs) == 1


def test_a_limit_that_lasts(github: GitHub) -> None:
    headers = {
        "x-ratelimit-remaining": "0",
        "x-ratelimit-reset": f"{datetime.now(UTC).timestamp() + 9000:.0f}",
    }
    github.faults.append(Answer(403, {"message": "API rate limit exceeded"}, headers))
    error = refusal(github)
    assert "limits how often it is asked" in error.summary


@pytest.mark.parametrize(
    ("trouble", "summary", "hint"),
    [
        ("no-key", "the CI has no key for the model", "secret ANTHROPIC_API_KEY"),
        ("push-denied", "the CI may not push to the hub", "Read and write permissions"),
        ("fetch-denied", "the CI cannot read the hub", "Workflow permissions"),
        ("raced", "others kept pushing", "knowledge synthesize"),
        ("newer", "older version", "pip install"),
        ("provider", "the model could not be asked", "actions/runs/1000"),
        ("scopes", "not everything could be merged", "actions/runs/1000"),
        ("other", "the merge failed there", "actions/runs/1000"),
    ],
)
def test_what_the_pipeline_says_went_wrong(github: GitHub, trouble: Trouble, summary: str, hint: str) -> None:
    github.job = lambda: job(failed(trouble, "in its own words"))
    error = refusal(github)
    assert summary in error.summary
    assert error.summary.endswith("in its own words")
    assert hint in error.hint


DENIED = """\
remote: Permission to ann/context.git denied to github-actions[bot].
fatal: unable to access 'https://github.com/ann/context/': The requested URL returned error: 403
"""


def test_a_push_that_git_itself_tells_of(github: GitHub) -> None:
    github.job = lambda: job(DENIED)
    assert "Read and write permissions" in refusal(github).hint


def test_a_step_that_says_nothing_we_know(github: GitHub) -> None:
    github.failed_step = "Install"
    github.job = lambda: job("ERROR: No matching distribution found")
    error = refusal(github)
    assert error.summary == "the step “Install” of the run failed"
    assert "actions/runs/1000" in error.hint


def test_the_log_cannot_be_had(github: GitHub) -> None:
    github.job = lambda: job("")
    github.storage.faults.append(Answer(404, {}))
    assert refusal(github).summary == "the step “Synthesize” of the run failed"


def failing(forge: Forge, part: str, answer: Answer) -> None:
    """What is asked for below `part` fails, each time."""
    real = forge.answer
    forge.answer = lambda asked: answer if part in asked.path else real(asked)  # type: ignore[method-assign]


@pytest.mark.parametrize("part", ["/jobs", "/logs"])
def test_a_success_is_one_though_nothing_more_is_known(github: GitHub, part: str) -> None:
    failing(github, part, Answer(503))
    assert run(github).startswith("GitHub ran the synthesis (https://")


def test_github_fails_in_a_way_that_nobody_foresaw(github: GitHub) -> None:
    failing(github, "/actions/runs/", Answer(418, {"message": "I am a teapot"}))
    error = refusal(github)
    assert "answered 418: I am a teapot" in error.summary
    assert error.hint


# -- GitLab


@pytest.mark.parametrize("part", ["/jobs", "/trace"])
def test_a_success_on_gitlab_is_one_though_nothing_more_is_known(gitlab: GitLab, part: str) -> None:
    failing(gitlab, part, Answer(404, {"message": "404 Not Found"}))
    assert run(gitlab).startswith("GitLab ran the synthesis (https://")


def test_gitlab_fails_in_a_way_that_nobody_foresaw(gitlab: GitLab) -> None:
    failing(gitlab, "/pipelines/", Answer(418, {"message": "I am a teapot"}))
    assert "answered 418: I am a teapot" in refusal(gitlab).summary


def test_a_pipeline_that_does_nothing(gitlab: GitLab) -> None:
    gitlab.states, gitlab.has_jobs = ["skipped"], False
    assert "ended as “skipped”" in refusal(gitlab).summary


def test_gitlab_names_no_pipeline(gitlab: GitLab) -> None:
    gitlab.faults.extend([Answer(200, {"default_branch": "main"}), Answer(201, {})])
    assert "did not name the pipeline" in refusal(gitlab).summary


def test_gitlab_runs_it(gitlab: GitLab) -> None:
    told: list[str] = []
    said = runner(gitlab, Waiting()).run(threading.Event(), told.append, 3600.0)
    assert said == "1 scope merged (https://gitlab.example/team/ann/context/-/pipelines/1000)"
    assert [line.partition(":")[0] for line in told[1:]] == ["created", "pending", "running", "success"]
    started = next(asked for asked in gitlab.asked if asked.method == "POST")
    assert started.path.endswith("/pipeline")
    assert started.body == {"ref": "main"}


def test_gitlab_with_both_tokens(gitlab: GitLab) -> None:
    assert "1 scope merged" in run(gitlab, environ={"GITLAB_TOKEN": TOKEN, "GITLAB_TRIGGER_TOKEN": TRIGGER})
    started = next(asked for asked in gitlab.asked if asked.method == "POST")
    assert started.path.endswith("/trigger/pipeline")


def test_gitlab_with_a_trigger_token_alone(gitlab: GitLab) -> None:
    said = run(gitlab, environ={"GITLAB_TRIGGER_TOKEN": TRIGGER})
    assert said.startswith("started https://gitlab.example/")
    assert "not followed" in said
    assert len(gitlab.asked) == 1


def test_gitlab_knows_no_such_trigger_token(gitlab: GitLab) -> None:
    error = refusal(gitlab, environ={"GITLAB_TRIGGER_TOKEN": "glptt-wrong-one"})
    assert "GITLAB_TRIGGER_TOKEN" in error.hint
    assert "glptt-wrong-one" not in str(error)


def test_gitlab_does_not_accept_the_token(gitlab: GitLab) -> None:
    error = refusal(gitlab, environ={"GITLAB_TOKEN": "wrong_token_0123"})
    assert "does not accept the token (401 Unauthorized)" in error.summary
    assert "GITLAB_TOKEN" in error.hint


def test_the_project_is_not_there(gitlab: GitLab) -> None:
    gitlab.project = "bob/other"
    error = refusal(gitlab)
    assert "no team/ann/context on" in error.summary
    assert "scope “api”" in error.hint


def test_the_token_may_not_start_a_pipeline(gitlab: GitLab) -> None:
    gitlab.faults.extend(
        [
            Answer(200, {"default_branch": "main"}),
            Answer(403, {"error": "insufficient_scope", "scope": "api"}),
        ]
    )
    error = refusal(gitlab)
    assert error.summary == "the token may not do this (insufficient_scope)"
    assert "scope “api”" in error.hint


def test_there_is_no_ci_file(gitlab: GitLab) -> None:
    gitlab.has_file = False
    error = refusal(gitlab)
    assert (
        error.summary == "team/ann/context has no .gitlab-ci.yml that this can start: Missing CI config file"
    )
    assert error.hint == "write it there: convergencectl knowledge scaffold gitlab"


def test_the_ci_file_is_damaged(gitlab: GitLab) -> None:
    gitlab.job = lambda: (False, "")
    gitlab.yaml_errors = "jobs config should contain at least one visible job"
    gitlab.has_jobs = False
    assert "GitLab cannot read .gitlab-ci.yml" in refusal(gitlab).summary


@pytest.mark.parametrize(
    ("reason", "hint"),
    [
        ("stuck_or_timeout_failure", "Runners"),
        ("no_matching_runner", "Runners"),
        ("ci_quota_exceeded", "minutes"),
        ("job_execution_timeout", "knowledge synthesize"),
        ("runner_system_failure", "knowledge synthesize"),
    ],
)
def test_what_gitlab_knows_of_a_failed_job(gitlab: GitLab, reason: str, hint: str) -> None:
    gitlab.job, gitlab.failure_reason = lambda: job(""), reason
    error = refusal(gitlab)
    assert "/-/pipelines/1000" in error.summary
    assert hint in error.hint


@pytest.mark.parametrize(
    ("log", "hint"),
    [
        (failed("no-key", ""), "Variables → Add variable ANTHROPIC_API_KEY"),
        (failed("push-denied", "no"), "Allow Git push requests"),
        ("remote: You are not allowed to upload code.", "Allow Git push requests"),
        ("remote: GitLab: You are not allowed to push code to protected branches", "Allow Git push requests"),
        ("no words", "see https://gitlab.example/"),
    ],
)
def test_what_a_log_on_gitlab_says(gitlab: GitLab, log: str, hint: str) -> None:
    gitlab.job = lambda: job(log)
    assert hint in refusal(gitlab).hint


def test_a_pipeline_is_cancelled(gitlab: GitLab) -> None:
    gitlab.states = ["pending", "canceled"]
    assert "was cancelled" in refusal(gitlab).summary


def test_nobody_takes_the_pipeline(gitlab: GitLab) -> None:
    gitlab.states = ["pending"]
    error = refusal(gitlab)
    assert "no runner takes the pipeline" in error.summary
    assert "Runners" in error.hint


def test_another_pipeline_holds_the_resource(gitlab: GitLab) -> None:
    gitlab.states = [*["waiting_for_resource"] * 100, "running", "success"]
    assert "1 scope merged" in run(gitlab)


def test_a_pipeline_takes_too_long(gitlab: GitLab) -> None:
    gitlab.states = ["running"]
    assert "not done in time" in refusal(gitlab).summary


def test_gitlab_limits_are_waited_for(gitlab: GitLab) -> None:
    gitlab.faults.append(Answer(429, None, {"Retry-After": "33"}))
    waiting = Waiting()
    assert "1 scope merged" in run(gitlab, waiting)
    assert waiting.waits[0] == 33.0
