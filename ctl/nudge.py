"""What Claude Code's hooks run: `python -EP -m convergencectl.nudge [CONVERGENCE_HOME]`.

Promises a session that it never fails (exit code 0 whatever happens), says nothing, is over within
its limit, and keeps nothing of what it is told: of the hook's input only the name of the event and the
transcript's folder go to the daemon, of the environment nothing. Imports so little that it takes hardly
longer than the interpreter itself.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sys

from convergenced.control.credentials import peer_credentials
from convergenced.machine.runtime import socket_path

LIMIT = 0.5
"""Seconds in which the daemon may take the request."""
WAIT = 2.0
"""Seconds that the start of a session waits for what is arriving, at most."""
MAX_INPUT = 4 << 20
"""Bytes of the hook's input that are read; a longer one is not acted on."""
_READ = 64 * 1024


def main() -> int:
    """Tells the daemon that a session began or paused; 0."""
    with contextlib.suppress(Exception, KeyboardInterrupt):
        # Ends the process wherever it hangs: an input without end, a socket that nobody serves.
        signal.signal(signal.SIGALRM, lambda *_: os._exit(0))
        signal.setitimer(signal.ITIMER_REAL, WAIT)
        _nudge(json.loads(sys.stdin.buffer.read(MAX_INPUT)), sys.argv[1:])
    return 0


def _nudge(told: dict[str, object], home: list[str]) -> None:
    waits = told["hook_event_name"] == "SessionStart" and told.get("source") in ("startup", "resume")
    if not waits:
        signal.setitimer(signal.ITIMER_REAL, LIMIT)
    environ = {**os.environ, "CONVERGENCE_HOME": home[0]} if home else os.environ
    path = socket_path(environ, os.path.expanduser("~"), sys.platform, os.getuid())
    params: dict[str, object] = {"projects": [os.path.dirname(str(told["transcript_path"]))], "wait": waits}
    if waits:
        params["timeout"] = WAIT
    request = {"jsonrpc": "2.0", "id": 1, "method": "sync", "params": params}
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as daemon:
        daemon.connect(path)
        who = peer_credentials(daemon)
        if who is not None and who.uid != os.geteuid():
            return
        daemon.sendall(json.dumps(request).encode("ascii") + b"\n")
        while (chunk := daemon.recv(_READ)) and b"\n" not in chunk:
            pass


if __name__ == "__main__":
    sys.exit(main())
