"""Real servers for tests, on the loopback interface: sshd, git over https, and two bad ones."""

from __future__ import annotations

import base64
import contextlib
import os
import shutil
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

import pytest

SSHD = shutil.which("sshd", path="/usr/sbin:/usr/local/sbin:/sbin:/usr/bin") or ""
READY_TRIES = 200
"""Looks, 50 ms apart, at whether a server is ready."""


def git_environ(home: Path) -> dict[str, str]:
    """An environment in which git knows nothing of whoever runs the tests."""
    home.mkdir(parents=True, exist_ok=True)
    kept = {name: os.environ[name] for name in ("PATH", "TMPDIR", "LANG") if name in os.environ}
    return kept | {
        "HOME": str(home),
        "XDG_CONFIG_HOME": str(home / "xdg"),
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": str(home / "gitconfig"),
    }


@dataclass
class SshServer:
    """A running sshd that lets `user` in with one key."""

    port: int
    user: str
    folder: Path
    key: Path
    other_key: Path
    known_hosts: Path

    @property
    def client_home(self) -> Path:
        """A home whose `.ssh` knows this server and holds the key, for clients without options."""
        return self.folder / "client"

    def url(self, path: Path) -> str:
        return f"ssh://{self.user}@127.0.0.1:{self.port}{path}"

    def command(self, *, key: Path | None = None, known_hosts: Path | None = None) -> str:
        """An ssh command that uses nothing of the user who runs the tests."""
        return (
            f"ssh -F /dev/null -i '{key or self.key}' -o IdentitiesOnly=yes -o IdentityAgent=none "
            f"-o UserKnownHostsFile='{known_hosts or self.known_hosts}' -o GlobalKnownHostsFile=/dev/null "
            "-o StrictHostKeyChecking=yes"
        )


@pytest.fixture(scope="session")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SshServer]:
    if not SSHD or not shutil.which("ssh-keygen"):
        pytest.skip("sshd is not installed (openssh-server)")
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # sshd insists on it when it runs as root
    folder = tmp_path_factory.mktemp("sshd")
    home = folder / "home"
    home.mkdir()
    for name in ("host_key", "key", "other_key"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)], check=True)
    shutil.copy(folder / "key.pub", folder / "authorized_keys")
    port = _free_port()
    (folder / "sshd_config").write_text(
        f"""
        ListenAddress 127.0.0.1
        Port {port}
        HostKey "{folder}/host_key"
        AuthorizedKeysFile "{folder}/authorized_keys"
        PidFile none
        StrictModes no
        UsePAM no
        PermitRootLogin prohibit-password
        PasswordAuthentication no
        KbdInteractiveAuthentication no
        PermitUserRC no
        SetEnv "HOME={home}" "GIT_CONFIG_GLOBAL=/dev/null" "PATH={os.environ["PATH"]}"
        """
    )
    host_key = (folder / "host_key.pub").read_text().split()[:2]
    (folder / "known_hosts").write_text(f"[127.0.0.1]:{port} {' '.join(host_key)}\n")
    (folder / "client" / ".ssh").mkdir(parents=True)
    shutil.copy(folder / "known_hosts", folder / "client" / ".ssh" / "known_hosts")
    shutil.copy(folder / "key", folder / "client" / ".ssh" / "id_ed25519")
    shutil.copy(folder / "key.pub", folder / "client" / ".ssh" / "id_ed25519.pub")
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen([SSHD, "-D", "-e", "-f", str(folder / "sshd_config")], stderr=log)
    try:
        _await_port(port, server, folder / "log")
        user = subprocess.run(["id", "-un"], check=True, capture_output=True, text=True).stdout.strip()
        yield SshServer(port, user, folder, folder / "key", folder / "other_key", folder / "known_hosts")
    finally:
        server.terminate()
        server.wait(10)


@dataclass
class WebServer:
    """Serves the repositories below `root` over https, to `user` with `password`."""

    port: int
    root: Path
    certificate: Path
    user: str = "ann"
    password: str = "s3cr3t p@ss/word"
    lets_anybody_in: bool = False
    """Ask nobody for credentials."""
    truncate_packs: bool = False
    """Break off in the middle of every answer to a fetch."""
    requests: list[str] = field(default_factory=list)

    def url(self, path: Path, credentials: str | None = None) -> str:
        if credentials is None:
            credentials = f"{self.user}:s3cr3t%20p%40ss%2Fword@"
        return f"https://{credentials}localhost:{self.port}/{path.relative_to(self.root)}"


@pytest.fixture(scope="session")
def web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebServer]:
    openssl = shutil.which("openssl")
    backend = Path(_git("--exec-path")) / "git-http-backend"
    if openssl is None or not backend.exists():
        pytest.skip("openssl or git http-backend is not installed")
    folder = tmp_path_factory.mktemp("web")
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    kind = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
    subprocess.run(
        [openssl, "req", "-x509", *kind, *subject, "-keyout", str(key), "-out", str(certificate)],
        check=True,
        capture_output=True,
    )
    root = folder / "root"
    root.mkdir()
    state = WebServer(0, root, certificate)
    server = _QuietServer(("127.0.0.1", 0), _handler(state, backend))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    state.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), name="web")
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        thread.join(10)
        server.server_close()


class _QuietServer(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that breaks off, or does not trust the certificate, is what some tests are about."""
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


def _handler(state: WebServer, backend: Path) -> type[BaseHTTPRequestHandler]:
    expected = "Basic " + base64.b64encode(f"{state.user}:{state.password}".encode()).decode()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._serve(b"")

        def do_POST(self) -> None:
            self._serve(self._body())

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            state.requests.append(format % args)

        def _body(self) -> bytes:
            if "chunked" not in self.headers.get("Transfer-Encoding", ""):
                return self.rfile.read(int(self.headers.get("Content-Length", "0")))
            body = b""
            while size := int(self.rfile.readline().split(b";")[0], 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return body

        def _serve(self, body: bytes) -> None:
            if not state.lets_anybody_in and self.headers.get("Authorization") != expected:
                self._answer(401, [("WWW-Authenticate", 'Basic realm="git"')], b"")
                return
            path, _, query = self.path.partition("?")
            environ = {
                "PATH": os.environ["PATH"],
                "GIT_PROJECT_ROOT": str(state.root),
                "GIT_HTTP_EXPORT_ALL": "1",
                "GIT_CONFIG_GLOBAL": "/dev/null",
                "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
                "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
                "PATH_INFO": unquote(path),
                "QUERY_STRING": query,
                "REQUEST_METHOD": self.command,
                "CONTENT_TYPE": self.headers.get("Content-Type", ""),
                "CONTENT_LENGTH": str(len(body)),
                "REMOTE_USER": state.user,
                "REMOTE_ADDR": "127.0.0.1",
            }
            ran = subprocess.run([str(backend)], input=body, env=environ, capture_output=True, check=False)
            head, _, content = ran.stdout.partition(b"\r\n\r\n")
            headers = [
                (name, value)
                for name, _, value in (line.partition(": ") for line in head.decode().split("\r\n"))
            ]
            status = int(dict(headers).pop("Status", "200").split()[0])
            self._answer(status, [pair for pair in headers if pair[0] != "Status"], content)

        def _answer(self, status: int, headers: list[tuple[str, str]], content: bytes) -> None:
            self.send_response(status)
            for name, value in headers:
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if state.truncate_packs and b"PACK" in content:
                self.wfile.write(content[: content.index(b"PACK") + 20])
                self.close_connection = True
            else:
                self.wfile.write(content)

    return Handler


@contextlib.contextmanager
def bad_server(answer: Callable[[socket.socket], None]) -> Iterator[int]:
    """A TCP server that gives each connection to `answer`; yields its port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        stopping = threading.Event()
        open_ones: list[socket.socket] = []

        def accept() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                if stopping.is_set():
                    connection.close()
                    return
                open_ones.append(connection)
                with contextlib.suppress(OSError):
                    answer(connection)

        thread = threading.Thread(target=accept, name="bad server")
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            stopping.set()
            with contextlib.suppress(OSError), socket.create_connection(listener.getsockname(), 5):
                pass
            thread.join(10)
            for connection in open_ones:
                connection.close()


def says_nothing(connection: socket.socket) -> None:
    """Accepts and never answers."""


def breaks_off(connection: socket.socket) -> None:
    """Hears a little and hangs up."""
    connection.recv(16)
    connection.shutdown(socket.SHUT_RDWR)
    connection.close()


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], check=True, capture_output=True, text=True).stdout.strip()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def _await_port(port: int, server: subprocess.Popen[bytes], log: Path) -> None:
    never = threading.Event()
    for _ in range(READY_TRIES):
        if server.poll() is not None:
            pytest.fail(f"sshd did not start: {log.read_text()}")
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        never.wait(0.05)
    pytest.fail("sshd is not ready")
