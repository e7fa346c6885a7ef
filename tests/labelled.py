"""Records with and without secrets, and what stands in them, for what searches for secrets.

Owns the labelled set. All secrets are drawn by lot when asked for, from parts, so that this file holds none
and nobody's scanner takes it for one; the same seed draws the same.
"""

from __future__ import annotations

import base64
import hashlib
import json
import random
import string
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass

ALNUM = string.ascii_letters + string.digits
WORD = ALNUM + "_-"
BASE64 = ALNUM + "+/"
HEX = "0123456789abcdef"
UPPER = string.ascii_uppercase + string.digits
BASE32 = string.ascii_uppercase + "234567"


@dataclass(frozen=True, slots=True)
class Example:
    """Bytes as they stand in a file, the rule that finds what they hold, and that secret; None where none."""

    data: bytes
    rule: str | None
    secret: str | None
    where: str


class Lot:
    """Draws secrets and what looks a little like them."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def text(self, alphabet: str, length: int) -> str:
        """Characters drawn one by one."""
        return "".join(self.random.choices(alphabet, k=length))

    def key(self, alphabet: str, length: int) -> str:
        """The same, with a letter and a digit at least, as real ones of that length have."""
        while True:
            drawn = self.text(alphabet, length)
            if any(map(str.isdigit, drawn)) and any(map(str.isalpha, drawn)):
                return drawn

    def bytes(self, length: int) -> bytes:
        """Bytes."""
        return self.random.randbytes(length)

    def base64(self, length: int) -> str:
        """The base64 of so many bytes."""
        return base64.b64encode(self.bytes(length)).decode()

    def jwt(self) -> str:
        """A token of three parts."""
        parts = [
            json.dumps({"alg": "HS256", "typ": "JWT"}).encode(),
            json.dumps({"sub": self.text(string.digits, 10), "iat": 1516239022}).encode(),
            self.bytes(32),
        ]
        return ".".join(base64.urlsafe_b64encode(part).decode().rstrip("=") for part in parts)

    def pem(self, kind: str, length: int = 1190) -> str:
        """A private key of so many bytes."""
        body = self.base64(length)
        lines = [body[at : at + 64] for at in range(0, len(body), 64)]
        return "\n".join([f"-----BEGIN {kind}-----", *lines, f"-----END {kind}-----", ""])

    def password(self) -> str:
        """What a careful person or a program chooses."""
        while True:
            drawn = self.text(ALNUM + "!#%^*+=~-", self.random.randint(10, 18))
            kinds = (str.isupper, str.islower, str.isdigit)
            if all(any(map(kind, drawn)) for kind in kinds) and drawn[0].isalnum() and drawn[-1].isalnum():
                return drawn


def _whole(*parts: str) -> str:
    return "".join(parts)


SHAPES: dict[str, tuple[Callable[[Lot], str], ...]] = {
    "aws-key-id": (
        lambda lot: "AK" + "IA" + lot.text(BASE32, 16),
        lambda lot: "AS" + "IA" + lot.text(BASE32, 16),
    ),
    "google-api-key": (lambda lot: "AI" + "za" + lot.text(WORD, 34) + lot.text(ALNUM, 1),),
    "google-oauth": (lambda lot: "GOC" + "SPX-" + lot.text(WORD, 27) + lot.text(ALNUM, 1),),
    "github": (
        lambda lot: f"gh{lot.random.choice('pousr')}" + "_" + lot.text(ALNUM, 36),
        lambda lot: "github" + "_pat_" + lot.text(ALNUM, 22) + "_" + lot.text(ALNUM, 59),
    ),
    "gitlab": (
        lambda lot: "gl" + "pat-" + lot.text(ALNUM, 20),
        lambda lot: "gl" + "rt-" + lot.text(WORD, 19) + "x",
    ),
    "bitbucket": (lambda lot: "AT" + "BB" + lot.text(ALNUM, 32),),
    "atlassian": (lambda lot: "ATA" + "TT3xFfG" + "F0" + lot.text(WORD, 180) + "=" + lot.text(UPPER, 8),),
    "npm": (lambda lot: "np" + "m_" + lot.text(ALNUM, 36),),
    "pypi": (lambda lot: "py" + "pi-" + "AgE" + "IcHlwaS5vcmcC" + lot.text(WORD, 120) + "Q",),
    "rubygems": (lambda lot: "ruby" + "gems_" + lot.text(HEX, 48),),
    "docker": (lambda lot: "dckr" + "_pat_" + lot.text(WORD, 26) + "k",),
    "slack": (
        lambda lot: (
            _whole("xo", "xb-")
            + lot.text(string.digits, 12)
            + "-"
            + lot.text(string.digits, 13)
            + "-"
            + lot.text(ALNUM, 24)
        ),
        lambda lot: (
            _whole("xa", "pp-1-A")
            + lot.text(UPPER, 10)
            + "-"
            + lot.text(string.digits, 13)
            + "-"
            + lot.text(HEX, 64)
        ),
    ),
    "slack-webhook": (
        lambda lot: (
            _whole("hooks", ".slack.com/services/T")
            + lot.text(UPPER, 10)
            + "/B"
            + lot.text(UPPER, 10)
            + "/"
            + lot.text(ALNUM, 24)
        ),
    ),
    "discord-webhook": (lambda lot: "hooks/" + lot.text("123456789", 18) + "/" + lot.text(WORD, 67) + "a",),
    "discord": (
        lambda lot: "M" + lot.text(ALNUM, 23) + "." + lot.text(WORD, 6) + "." + lot.text(WORD, 37) + "z",
    ),
    "telegram": (lambda lot: lot.text("123456789", 10) + ":A" + "A" + lot.text(WORD, 32) + "q",),
    "anthropic": (lambda lot: "sk-" + "ant-api03-" + lot.text(WORD, 93) + "AA",),
    "openai": (
        lambda lot: "sk-" + "proj-" + lot.text(WORD, 73) + "T3Blbk" + "FJ" + lot.text(WORD, 73) + "A",
        lambda lot: "sk-" + lot.text(ALNUM, 20) + "T3Blbk" + "FJ" + lot.text(ALNUM, 20),
    ),
    "openrouter": (lambda lot: "sk-" + "or-v1-" + lot.text(HEX, 64),),
    "hugging-face": (lambda lot: "h" + "f_" + lot.text(string.ascii_letters, 34),),
    "groq": (lambda lot: "gs" + "k_" + lot.text(ALNUM, 52),),
    "replicate": (lambda lot: "r" + "8_" + lot.text(ALNUM, 37),),
    "xai": (lambda lot: "xa" + "i-" + lot.text(ALNUM, 80),),
    "perplexity": (lambda lot: "pp" + "lx-" + lot.text(ALNUM, 48),),
    "nvidia": (lambda lot: "nv" + "api-" + lot.text(WORD, 63) + "n",),
    "stripe": (
        lambda lot: f"{lot.random.choice('sr')}k" + "_live_" + lot.text(ALNUM, lot.random.choice([24, 99])),
    ),
    "stripe-webhook": (lambda lot: "wh" + "sec_" + lot.text(ALNUM, 32),),
    "square": (lambda lot: "sq0" + "csp-" + lot.text(WORD, 42) + "s",),
    "shopify": (lambda lot: "shp" + "at_" + lot.text(HEX, 32),),
    "sendgrid": (lambda lot: "S" + "G." + lot.text(WORD, 22) + "." + lot.text(WORD, 42) + "d",),
    "digitalocean": (lambda lot: "dop" + "_v1_" + lot.text(HEX, 64),),
    "databricks": (lambda lot: "da" + "pi" + lot.text(HEX, 32),),
    "vault": (lambda lot: "hv" + "s." + lot.text(WORD, 90) + "A",),
    "pulumi": (lambda lot: "pu" + "l-" + lot.text(HEX, 40),),
    "grafana": (lambda lot: "gl" + "sa_" + lot.text(ALNUM, 32) + "_" + lot.text(HEX, 8),),
    "sentry": (lambda lot: "sntr" + "yu_" + lot.text(HEX, 64),),
    "new-relic": (lambda lot: "NR" + "AK-" + lot.text(UPPER, 27),),
    "linear": (lambda lot: "lin" + "_api_" + lot.text(ALNUM, 40),),
    "notion": (lambda lot: "nt" + "n_" + lot.text(ALNUM, 46),),
    "figma": (lambda lot: "fi" + "gd_" + lot.text(WORD, 39) + "f",),
    "postman": (lambda lot: "PM" + "AK-" + lot.text(HEX, 24) + "-" + lot.text(HEX, 34),),
    "supabase": (lambda lot: "sb" + "p_" + lot.text(HEX, 40),),
    "tailscale": (lambda lot: "ts" + "key-" + "auth-" + lot.text(ALNUM, 12) + "-" + lot.text(ALNUM, 32),),
    "doppler": (lambda lot: "dp" + ".pt." + lot.text(ALNUM, 43),),
    "age": (lambda lot: "AGE-SECRET" + "-KEY-1" + lot.text("QPZRY9X8GF2TVDW0S3JN54KHCE6MUA7L", 58),),
    "jwt": (lambda lot: lot.jwt(),),
}
"""How a secret of each kind that tells itself by its shape is drawn."""

KEYS: dict[str, tuple[Callable[[Lot], str], ...]] = {
    "private-key": (
        lambda lot: lot.pem("RSA PRIVATE" + " KEY"),
        lambda lot: lot.pem("OPENSSH PRIVATE" + " KEY", 290),
        lambda lot: lot.pem("PRIVATE" + " KEY", 48),
        lambda lot: lot.pem("EC PRIVATE" + " KEY", 121),
    ),
    "pgp-key": (lambda lot: lot.pem("PGP PRIVATE" + " KEY BLOCK", 700),),
}

SPOKEN: tuple[str, ...] = (
    "The key is {}",
    "export SERVICE_CREDENTIALS={}\n",
    "curl -H 'X-Whatever: {}' https://api.service.dev/v1/me",
    "{}\n",
    "config:\n  value: {}  # rotate monthly\n",
    '{{"value":"{}","enabled":true}}',
    "     7\u2192client = Client('{}')\n     8\u2192client.run()\n",
    "VALUE={}\nOTHER=1\n",
    "I found `{}` in the file.",
    '+ url = f"https://host/{{x}}?k={}&v=2"',
)

ASSIGNED: dict[str, tuple[tuple[str, Callable[[Lot], str]], ...]] = {
    "password": tuple(
        (text, Lot.password)
        for text in (
            'password = "{}"',
            "DB_PASSWORD={}\n",
            '{{"user": "svc", "password": "{}"}}',
            "db:\n  password: {}\n",
            "conn = connect(host='db', passwd='{}')",
            "mysql --password {}\n",
            "Server=db;User Id=svc;Password={};Encrypt=true",
            "smtp_pass = '{}'",
            'passphrase: "{}"',
            "<password>{}</password>",
        )
    ),
    "assigned": (
        ('api_key = "{}"', lambda lot: lot.key(ALNUM, 32)),
        ("API_KEY={}\n", lambda lot: lot.key(HEX, 40)),
        ('{{"client_secret": "{}"}}', lambda lot: lot.key(WORD, 38) + "x"),
        ("auth_token: {}\n", lambda lot: lot.key(ALNUM, 40)),
        ("const apiKey = '{}';", lambda lot: lot.key(ALNUM, 24)),
        ("DJANGO_SECRET_KEY='{}'", lambda lot: lot.key(ALNUM + "!@#^*+", 50)),
        ("tool deploy --token {} --yes", lambda lot: lot.key(ALNUM, 40)),
        ('secret: str = "{}"', lambda lot: lot.key(BASE64, 44)),
        ("SECRET_KEY_BASE={}\n", lambda lot: lot.key(HEX, 128)),
        ('"access_token":"{}"', lambda lot: lot.key(WORD, 60) + "1"),
    ),
    "aws-secret-key": (
        ("AWS_SECRET_ACCESS_KEY={}\n", lambda lot: lot.key(BASE64, 40)),
        ("aws_secret_access_key = {}\n", lambda lot: lot.key(BASE64, 40)),
        ('{{"SecretAccessKey": "{}"}}', lambda lot: lot.key(BASE64, 40)),
    ),
    "azure-key": (
        (
            "DefaultEndpointsProtocol=https;AccountName=shop;AccountKey={};EndpointSuffix=core.windows.net",
            lambda lot: lot.base64(64),
        ),
        ("Endpoint=sb://bus.servicebus.windows.net/;SharedAccessKey={}\n", lambda lot: lot.base64(32)),
    ),
    "authorization": (
        ("curl -H 'Authorization: Bearer {}' https://api.service.dev", lambda lot: lot.key(ALNUM, 40)),
        ('{{"Authorization": "Basic {}"}}', lambda lot: lot.base64(30)),
        ("Authorization: Token {}\n", lambda lot: lot.key(HEX, 40)),
    ),
    "url": (
        ("postgres://svc:{}@db.internal:5432/shop", Lot.password),
        ("origin\thttps://ann:{}@git.service.dev/shop.git (fetch)\n", lambda lot: lot.key(ALNUM, 20)),
        ("redis://:{}@cache:6379/0", lambda lot: lot.key(ALNUM, 32)),
        ("amqps://worker:{}@queue.internal/%2f", Lot.password),
    ),
}

HARMLESS: tuple[Callable[[Lot], str], ...] = (
    lambda lot: f"commit {lot.text(HEX, 40)}\nMerge: {lot.text(HEX, 7)} {lot.text(HEX, 7)}\n",
    lambda lot: f"session {uuid.UUID(bytes=lot.bytes(16))} was resumed",
    lambda lot: f"token: {uuid.UUID(bytes=lot.bytes(16))}",
    lambda lot: f"{hashlib.sha256(lot.bytes(9)).hexdigest()}  dist/pkg-1.2.3.tar.gz\n",
    lambda lot: f'"integrity": "sha512-{lot.base64(64)}"',
    lambda lot: f"--hash=sha256:{lot.text(HEX, 64)} \\\n    --hash=sha256:{lot.text(HEX, 64)}",
    lambda lot: f"data:image/png;base64,iVBORw0KGgo{lot.base64(3000)}",
    lambda lot: f'{{"type":"image","source":{{"type":"base64","data":"/9j/4AAQ{lot.base64(4000)}"}}}}',
    lambda lot: f'{{"type":"thinking","thinking":"hm","signature":"{lot.base64(700)}"}}',
    lambda lot: "AK" + "IAIOSFODNN7EXAMPLE and wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
    lambda lot: "aws_secret_access_key = wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
    lambda lot: "GITHUB_TOKEN=gh" + "p_" + "x" * 36,
    lambda lot: "GITHUB_TOKEN=gh" + "p_" + "A1" * 18,
    lambda lot: "sk-" + "ant-api03-" + "your-key-goes-here-" * 4,
    lambda lot: "export OPENAI_API_KEY=sk-" + "..." + lot.text(ALNUM, 4),
    lambda lot: "ANTHROPIC_API_KEY=<your key>  # or sk-" + "ant-XXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXX",
    lambda lot: 'password = os.environ["DB_PASSWORD"]',
    lambda lot: "password: ${DB_PASSWORD}\npassword2: $DB_PASSWORD_2\n",
    lambda lot: "token: ${{ secrets.GITHUB_TOKEN }}",
    lambda lot: 'api_key = "{{ vault_api_key_for_service1 }}"',
    lambda lot: "const token = process.env.SESSION_TOKEN_2 ?? await getToken2(user)",
    lambda lot: 'password = "changeme"\nPASSWORD=changeme123\n',
    lambda lot: '{"username": "admin", "password": "password123"}',
    lambda lot: "def login(self, username: str, password: str, token: Optional[str] = None) -> None:",
    lambda lot: 'raise ValueError("password must have 8 characters and 1 digit")',
    lambda lot: 'assert form["password"].errors == ["This field is required."]',
    lambda lot: '{"usage":{"input_tokens":12877,"cache_creation_input_tokens":5120,"output_tokens":331}}',
    lambda lot: '{"max_tokens": 4096, "token_type": "bearer", "tokenizer": "cl100k_base"}',
    lambda lot: 'nextPageToken: "CAUQAA' + lot.text(ALNUM, 20) + '"',
    lambda lot: f'<input type="hidden" name="csrf_token" value="x"> csrf_token = "{lot.text(ALNUM, 32)}"',
    lambda lot: "-----BEGIN RSA PRIVATE" + " KEY-----\n...\n-----END RSA PRIVATE" + " KEY-----",
    lambda lot: 'if line.startswith("-----BEGIN ' + "PRIVATE KEY-----" + '"): raise Leaked(line, position)',
    lambda lot: lot.pem("PUBLIC KEY", 290),
    lambda lot: lot.pem("CERTIFICATE", 800),
    lambda lot: f"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5{lot.text(BASE64, 48)} ann@desk",
    lambda lot: "postgres://postgres:postgres@localhost:5432/app",
    lambda lot: "postgresql://user:password@localhost/db and mysql://root:${MYSQL_PASSWORD}@db/x",
    lambda lot: (
        "https://user:pass@host/path, https://<user>:<password>@host/, ssh://git@github.com:22/you/x.git"
    ),
    lambda lot: "git@github.com:you/context.git http://localhost:8080/@scope/pkg http://a:b@c",
    lambda lot: (
        "Authorization: Bearer <token>\nAuthorization: Bearer $TOKEN\nAuthorization: Basic dXNlcjpwYXNz\n"
    ),
    lambda lot: 'headers = {"Authorization": f"Bearer {self.access_token_for(user_id=1)}"}',
    lambda lot: (
        f'"password_hash": "$2b$12${lot.text(ALNUM, 53)}"\n"password": "$2b$12${lot.text(ALNUM, 53)}"'
    ),
    lambda lot: "hooks" + ".slack.com/services/T00000000/B00000000/XXXXXXXXXXXXXXXXXXXXXXXX",
    lambda lot: (
        "hf_hub_download_with_retries_and_cache npm_config_registry_timeout_ms glpat-is-a-prefix-of-tokens"
    ),
    lambda lot: "ghp_ and sk_live_ are prefixes; see test_that_ghp_tokens_are_redacted_in_every_log_line",
    lambda lot: "eyJhbGciOiJIUzI1NiJ9 is a header of a JWT; eyJ" + "hbGciOi...truncated",
    lambda lot: (
        "SELECT token_id, secret_name FROM api_keys WHERE api_key_hash = encode(digest($1, 'sha256'), 'hex')"
    ),
    lambda lot: "kubectl create secret generic app-secret-v2 --from-literal=password=$(pass show app/db2)",
    lambda lot: "secret: app-credentials-prod-2\nsecretKeyRef: {name: app-credentials-2, key: db-password-1}",
    lambda lot: "".join(f"{lot.text(HEX, 2)} " for _ in range(400)),
    lambda lot: (
        "!function(e,t){var n=t.token,r=e.password=n?n.key:void 0;return r}(window,{token:1,secret:2});" * 8
    ),
    lambda lot: f"https://cdn.service.dev/assets/app.{lot.text(HEX, 20)}.js?v={lot.text(HEX, 32)}",
    lambda lot: f"toolu_01{lot.text(ALNUM, 22)} msg_01{lot.text(ALNUM, 22)} req_011{lot.text(ALNUM, 21)}",
    lambda lot: f"arn:aws:iam::123456789012:role/deploy-{lot.text(HEX, 8)} ami-0{lot.text(HEX, 16)}",
    lambda lot: 'SECRET_KEY = "django-insecure-change_me_before_you_deploy_this_1"',
    lambda lot: "password: correct\npassword: wrong-password\npassword_confirmation: Passw0rd!\n",
    lambda lot: f"pk_live_{lot.text(ALNUM, 24)} is public; sk_test_{'0' * 24} is not live",
)
"""What is no secret, however much it looks like one."""


def positives(seed: int, rounds: int) -> Iterator[Example]:
    """Records, notes and tool results that hold one secret each."""
    lot = Lot(seed)
    for _ in range(rounds):
        for rule, makers in SHAPES.items():
            for make in makers:
                secret = make(lot)
                text = lot.random.choice(SPOKEN).format(_in_place(rule, secret))
                yield _example(lot, text, rule, secret)
        for rule, makers in KEYS.items():
            for make in makers:
                secret = make(lot)
                yield _example(lot, f"$ cat key\n{secret}$ ", rule, secret)
        account = {
            "type": "service_account",
            "project_id": "shop",
            "private_key": lot.pem("PRIVATE" + " KEY"),
        }
        yield _example(lot, json.dumps(account, indent=2), "gcp-account", account["private_key"])
        for rule, ways in ASSIGNED.items():
            for text, make in ways:
                secret = make(lot)
                yield _example(lot, text.format(secret), rule, secret)


def negatives(seed: int, rounds: int) -> Iterator[Example]:
    """The same with nothing in them that is a secret."""
    lot = Lot(seed)
    for _ in range(rounds):
        for make in HARMLESS:
            yield _example(lot, make(lot), None, None)


def _in_place(rule: str, secret: str) -> str:
    """What tells itself by a host only, with its host."""
    return {"slack-webhook": "https://", "discord-webhook": "https://discord.com/api/web"}.get(
        rule, ""
    ) + secret


def _example(lot: Lot, text: str, rule: str | None, secret: str | None) -> Example:
    where = lot.random.choice(sorted(WAYS))
    return Example(WAYS[where](text), rule, secret, where)


def _dump(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode() + b"\n"


def _record(content: object, **fields: object) -> bytes:
    return _dump(
        {
            "parentUuid": "0b0e7c9e-6f5a-4d55-8c58-0b3f1b1f6f6e",
            "cwd": "/home/ann/src/proj",
            "type": "user",
            "message": {"role": "user", "content": content},
            "uuid": "9a1c2f6e-55d2-4b0e-a0a1-6a3a6f1b7c11",
            "timestamp": "2026-01-05T10:00:00.000Z",
            **fields,
        }
    )


WAYS: dict[str, Callable[[str], bytes]] = {
    "prompt": _record,
    "answer": lambda text: _record([{"type": "text", "text": f"Here it is:\n\n```\n{text}\n```\n"}]),
    "result": lambda text: _record(
        [{"type": "tool_result", "tool_use_id": "toolu_1", "content": text}],
        toolUseResult={"stdout": "", "stderr": "", "interrupted": False},
    ),
    "nested": lambda text: _record(
        [{"type": "tool_use", "name": "mcp__x", "input": {"body": json.dumps({"text": f"\t{text}"})}}]
    ),
    "slashes": lambda text: _record(text).replace(b"/", b"\\/"),
    "ascii": lambda text: (
        json.dumps({"type": "user", "message": {"content": f"\u00e9\n{text}"}}).encode() + b"\n"
    ),
    "note": lambda text: f"# Notes\n\n- about it:\n\n{text}\n\nmore\n".encode(),
}
"""How a text stands in a file: as records do, escaped once or twice, and plain."""
