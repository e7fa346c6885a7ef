"""What all tests share: how they run side by side, and how deep they look.

`python -m tests.check` runs as many files of tests at a time as pay off (`tests.check.WORKERS`); plain
`pytest` runs one test after the other. The tests of one file stay in one process, in order, so that a
fixture of a module or session is made once where it is used. What keeps files from disturbing each other:

- Everything of a test lies below its `tmp_path`: home, stores, sockets, programs. Servers listen on ports
  that were free.
- Processes are the exception, as daemons see those of the whole machine. A client holds only projects whose
  folder it runs in, so start clients (`tests.clients`, `tests.e2e.real_client`) in a folder of the test and
  ask for them by pid. A daemon with `localize.hold = "machine"` waits for the clients of all tests: have the
  engine do that on fakes. Shared knowledge always waits for all of them: its machines (`tests.e2e.knowing`)
  have pid namespaces of their own. End only what the test started, by its pid.
- Nothing is as fast as it is alone: wait for what must come true (`tests.e2e.machines.await_true`), never
  for a time, and expect of what a daemon does by itself that it may have been done already.

Hypothesis profiles: "default" is fast, "deep" is chosen by CONVERGENCE_TEST_PROFILE.
"""

from __future__ import annotations

import os
import signal

from hypothesis import HealthCheck, settings

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # Started in the background of a script: what the tests start must be interruptible all the same.
    signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile(
    "default", max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("deep", max_examples=3000, deadline=None, suppress_health_check=list(HealthCheck))
settings.load_profile(os.environ.get("CONVERGENCE_TEST_PROFILE", "default"))
