r"""Owns what secrets of well-known shape look like: a prefix that nothing else has, and a body.

One byte of each prefix that is rare in transcripts leads the search, so that it stays a plain byte search;
all else is judged around it. A prefix begins a word, also behind an escape (`\nghp_…`). Every repetition is
bounded, so the work is linear in the input.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from convergenced.canon.search import holder
from convergenced.canon.secrets.judge import is_drawn

SLASH = rb"\\{0,4}/"
"""A slash, however often it was escaped."""


class Shape(NamedTuple):
    """A kind of token: a prefix as it stands, and the pattern of what follows it."""

    rule: str
    prefix: bytes
    body: bytes


class Hit(NamedTuple):
    """Where something that is taken for a secret stands."""

    rule: str
    start: int
    end: int


WHAT: dict[str, str] = {
    "aws-key-id": "AWS access key id",
    "google-api-key": "Google API key",
    "google-oauth": "Google OAuth secret",
    "github": "GitHub token",
    "gitlab": "GitLab token",
    "bitbucket": "Bitbucket token",
    "atlassian": "Atlassian token",
    "npm": "npm token",
    "pypi": "PyPI token",
    "rubygems": "RubyGems key",
    "docker": "Docker Hub token",
    "slack": "Slack token",
    "slack-webhook": "Slack webhook",
    "discord-webhook": "Discord webhook",
    "discord": "Discord bot token",
    "telegram": "Telegram bot token",
    "teams-webhook": "Teams webhook",
    "anthropic": "Anthropic key",
    "openai": "OpenAI key",
    "openrouter": "OpenRouter key",
    "hugging-face": "Hugging Face token",
    "groq": "Groq key",
    "replicate": "Replicate token",
    "xai": "xAI key",
    "perplexity": "Perplexity key",
    "nvidia": "NVIDIA key",
    "stripe": "Stripe key",
    "stripe-webhook": "Stripe webhook secret",
    "square": "Square token",
    "shopify": "Shopify token",
    "sendgrid": "SendGrid key",
    "digitalocean": "DigitalOcean token",
    "databricks": "Databricks token",
    "vault": "Vault token",
    "terraform": "Terraform token",
    "pulumi": "Pulumi token",
    "grafana": "Grafana token",
    "sentry": "Sentry token",
    "new-relic": "New Relic key",
    "linear": "Linear key",
    "notion": "Notion token",
    "figma": "Figma token",
    "postman": "Postman key",
    "supabase": "Supabase token",
    "tailscale": "Tailscale key",
    "doppler": "Doppler token",
    "age": "age secret key",
    "jwt": "JSON web token",
}

_ALNUM = rb"[A-Za-z0-9]"
_WORD = rb"[A-Za-z0-9_-]"
_HEX = rb"[0-9a-f]"

_SHAPES = (
    *(
        Shape("github", prefix, _ALNUM + rb"{36,255}")
        for prefix in (b"ghp_", b"gho_", b"ghu_", b"ghs_", b"ghr_")
    ),
    Shape("github", b"github_pat_", rb"[A-Za-z0-9]{22}_[A-Za-z0-9]{59}"),
    *(
        Shape("gitlab", prefix, _WORD + rb"{20,64}(?:\.[0-9a-z]{2}\.[0-9a-z]{7,12})?")
        for prefix in (b"glpat-", b"gldt-", b"glrt-", b"glptt-", b"glcbt-", b"glsoat-", b"glft-", b"glagent-")
    ),
    Shape("npm", b"npm_", _ALNUM + rb"{36}"),
    Shape("pypi", b"pypi-", rb"AgE[A-Za-z0-9_-]{50,500}"),
    Shape("rubygems", b"rubygems_", _HEX + rb"{48}"),
    Shape("docker", b"dckr_pat_", _WORD + rb"{27}"),
    Shape("hugging-face", b"hf_", rb"[A-Za-z0-9]{34,40}"),
    Shape("groq", b"gsk_", _ALNUM + rb"{52}"),
    Shape("replicate", b"r8_", _ALNUM + rb"{37}"),
    Shape("stripe", b"sk_live_", _ALNUM + rb"{24,247}"),
    Shape("stripe", b"rk_live_", _ALNUM + rb"{24,247}"),
    Shape("stripe-webhook", b"whsec_", rb"[A-Za-z0-9+/]{32,64}"),
    *(
        Shape("shopify", prefix, rb"[0-9a-fA-F]{32}")
        for prefix in (b"shpat_", b"shpca_", b"shppa_", b"shpss_")
    ),
    *(Shape("digitalocean", prefix, _HEX + rb"{64}") for prefix in (b"dop_v1_", b"doo_v1_", b"dor_v1_")),
    Shape("grafana", b"glsa_", rb"[A-Za-z0-9]{32}_[0-9a-fA-F]{8}"),
    Shape("grafana", b"glc_", rb"[A-Za-z0-9+/]{32,400}"),
    Shape("sentry", b"sntryu_", _HEX + rb"{64}"),
    Shape("sentry", b"sntrys_", rb"[A-Za-z0-9+/=_]{60,500}"),
    Shape("linear", b"lin_api_", _ALNUM + rb"{40}"),
    Shape("notion", b"ntn_", _ALNUM + rb"{40,60}"),
    Shape("supabase", b"sbp_", _HEX + rb"{40}"),
    Shape("figma", b"figd_", _WORD + rb"{38,50}"),
    *(Shape("slack", b"xox%c-" % kind, rb"[A-Za-z0-9-]{24,250}") for kind in b"abeoprs"),
    Shape("slack", b"xapp-", rb"\d-[A-Z0-9]{8,12}-\d{8,14}-[a-z0-9]{32,64}"),
    Shape("anthropic", b"sk-ant-", rb"[a-z]{3,8}\d{2}-[A-Za-z0-9_-]{40,180}"),
    Shape("openai", b"sk-", rb"(?:proj|svcacct|admin|None)-[A-Za-z0-9_-]{40,200}"),
    Shape("openai", b"sk-", rb"[A-Za-z0-9]{32,64}"),
    Shape("openrouter", b"sk-or-v1-", _HEX + rb"{64}"),
    Shape("xai", b"xai-", _ALNUM + rb"{70,100}"),
    Shape("perplexity", b"pplx-", _ALNUM + rb"{40,64}"),
    Shape("nvidia", b"nvapi-", _WORD + rb"{60,70}"),
    Shape("square", b"sq0csp-", _WORD + rb"{43}"),
    Shape("square", b"sq0atp-", _WORD + rb"{22}"),
    Shape("pulumi", b"pul-", _HEX + rb"{40}"),
    Shape("new-relic", b"NRAK-", rb"[A-Z0-9]{27}"),
    Shape("postman", b"PMAK-", rb"[0-9a-f]{24}-[0-9a-f]{34}"),
    Shape("tailscale", b"tskey-", rb"[a-z]{3,8}-[A-Za-z0-9]{8,20}-[A-Za-z0-9]{16,40}"),
    Shape("google-oauth", b"GOCSPX-", _WORD + rb"{28}"),
    Shape("age", b"AGE-SECRET-KEY-", rb"1[QPZRY9X8GF2TVDW0S3JN54KHCE6MUA7L]{58}"),
    Shape("vault", b"hvs.", _WORD + rb"{24,250}"),
    Shape("vault", b"hvb.", _WORD + rb"{100,300}"),
    Shape("doppler", b"dp.pt.", _ALNUM + rb"{40,44}"),
    Shape("sendgrid", b"SG.", rb"[A-Za-z0-9_-]{22}\.[A-Za-z0-9_-]{43}"),
    Shape("google-oauth", b"ya29.", rb"[A-Za-z0-9_-]{60,500}"),
    Shape("telegram", b":", rb"AA[A-Za-z0-9_-]{33}"),
    *(Shape("aws-key-id", prefix, rb"[A-Z2-7]{16}") for prefix in (b"AKIA", b"ASIA")),
    Shape("google-api-key", b"AIza", _WORD + rb"{35}"),
    Shape("bitbucket", b"ATBB", rb"[A-Za-z0-9]{28,36}"),
    Shape("bitbucket", b"ATCTT3xFfG", rb"[A-Za-z0-9_=-]{60,300}"),
    Shape("atlassian", b"ATATT3xFfG", rb"[A-Za-z0-9_=-]{60,300}"),
    Shape("databricks", b"dapi", rb"[0-9a-f]{32}(?:-\d)?"),
    Shape("jwt", b"eyJ", rb"[A-Za-z0-9_-]{14,1000}\.eyJ[A-Za-z0-9_-]{14,4000}\.[A-Za-z0-9_-]{20,1000}"),
)

_LEADS = {
    b"_": rb"_(?=[A-Za-z0-9+/]{20})",
    b"-": rb"-(?:(?<=[iklopr-tx-yKXY]-)|(?<=xox[abe]-)|(?<=-v1-))(?=[A-Za-z0-9_-]{20})",  # in no UUID
    b".": rb"\.(?=[A-Za-z0-9_-]{20})",
}
"""How the search for prefixes that end with a rare byte begins."""

_ODD = ("docker", "figma")
"""What may have a `_` soon behind the one that leads."""

_BOT_ID = re.compile(rb"(?<![0-9])\d{8,10}\Z")
_END = rb"(?![A-Za-z0-9])"


def _shape(shape: Shape, *, led: bytes = b"") -> bytes:
    """The pattern of one kind, from behind the byte `led` on, else from the prefix on."""
    prefix = re.escape(shape.prefix)
    begins = rb"(?:(?<![A-Za-z0-9_-]%(p)s)|(?<=\\[bfnrt]%(p)s))" % {b"p": prefix}
    if shape.prefix == b":":
        begins = rb"(?<=\d{8}:)"
    return (rb"(?<=%s)" % prefix if led else prefix) + begins + shape.body + _END


class _Search:
    """Kinds that are searched for together."""

    def __init__(self, shapes: Iterable[Shape], lead: bytes = b"", gate: bytes = b"") -> None:
        self._shapes = list(shapes)
        bodies = b"|".join(b"(%s)" % _shape(shape, led=lead) for shape in self._shapes)
        self._pattern = re.compile(lead + rb"(?:%s)" % bodies if lead else bodies)
        self._may_be_in = holder(gate) if gate else None
        self._led = 1 if lead else 0

    def hits(self, data: bytes) -> Iterator[Hit]:
        if self._may_be_in is not None and not self._may_be_in(data):
            return
        for found in self._pattern.finditer(data):
            assert found.lastindex is not None
            shape = self._shapes[found.lastindex - 1]
            start = found.start() - len(shape.prefix) + self._led if self._led else found.start()
            body = data[start + len(shape.prefix) : found.end()]
            if shape.rule == "telegram":
                bot = _BOT_ID.search(data, max(0, start - 10), start)
                if bot is None:
                    continue
                start = bot.start()
            if is_drawn(body):
                yield Hit(shape.rule, start, found.end())


def _searches() -> Iterator[_Search]:
    alone = [shape for shape in _SHAPES if shape.prefix[-1:] not in _LEADS or shape.rule in _ODD]
    for byte, lead in _LEADS.items():
        yield _Search([one for one in _SHAPES if one.prefix.endswith(byte) and one not in alone], lead)
    for shape in alone:
        yield _Search([shape], gate=b":AA" if shape.prefix == b":" else shape.prefix)


_SEARCHES = tuple(_searches())

_is_hook_in = holder(b"hooks")
_HOOKS = re.compile(
    rb"hooks(?:(?P<slack>\.slack(?:-gov)?\.com%(s)s(?:services|workflows|triggers)%(s)sT[A-Z0-9]{6,14}%(s)s"
    rb"[A-Za-z0-9]{6,24}(?:%(s)s\d{10,24})?%(s)s[A-Za-z0-9]{20,64})"
    rb"|(?<=webhooks)%(s)s(?P<discord>\d{16,20}%(s)s[A-Za-z0-9_-]{60,80}))" % {b"s": SLASH}
)
_IS_DISCORD = re.compile(rb"discord(?:app)?\.com%(s)sapi%(s)s(?:v\d{1,2}%(s)s)?webhooks\Z" % {b"s": SLASH})
_BOT = re.compile(
    rb"\.(?=[A-Za-z0-9_-]{6}\.[A-Za-z0-9_-]{27})(?<=[MNO][A-Za-z0-9_-]{23}.)[A-Za-z0-9_-]{6}"
    rb"\.[A-Za-z0-9_-]{27,38}(?![A-Za-z0-9_-])"
)
_BOT_START = re.compile(rb"(?:(?<![A-Za-z0-9_-])|(?<=\\[bfnrt]))[MNO][A-Za-z0-9_-]{23,25}\Z")


def find_tokens(data: bytes) -> Iterator[Hit]:
    """All secrets of well-known shape."""
    for search in _SEARCHES:
        yield from search.hits(data)
    if _is_hook_in(data):
        for found in _HOOKS.finditer(data):
            rule = f"{found.lastgroup}-webhook"
            is_meant = found["slack"] or _IS_DISCORD.search(
                data, max(0, found.start() - 60), found.start() + 5
            )
            if is_meant and is_drawn(data[found.start() : found.end()].rpartition(b"/")[2]):
                yield Hit(rule, found.start(), found.end())
    for found in _BOT.finditer(data):
        start = _BOT_START.search(data, max(0, found.start() - 28), found.start())
        if start is not None and is_drawn(data[start.start() : found.end()]):
            yield Hit("discord", start.start(), found.end())
