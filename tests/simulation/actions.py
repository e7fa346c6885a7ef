"""What clients, users, networks and bad days do in a story.

Each action belongs to one machine, tells in words what it did, and does nothing (None) where it does not
apply. The words are the trace; the weights say how often.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass

from convergenced.model import SessionId
from convergenced.steps import STEPS
from convergenced.store.branch import project_ref
from tests.simulation.scenario import Backup, CrashError, Machine, Moment, Scenario, copy_state
from tests.simulation.watched import marks_in
from tests.unit.sync.world import APP, QueuedWorkers, project_at

Run = Callable[[Scenario, Machine], str | None]

ACTIONS: list[Action] = []

NOTES = ("MEMORY.md", "habits.md", "deep/place.md")
MOMENTS = (*STEPS, "files.list", "files.read", "files.stat", "files.replace", "files.between")
WRITING = (
    *("localize.planned", "files.replace", "replace.written", "replace.kept", "grow.checked"),
    "files.between",
)
"""The moments at which a client is most unwelcome."""


@dataclass(frozen=True)
class Action:
    """Something that happens, and how often against the others."""

    weight: float
    run: Run


def action(weight: float) -> Callable[[Run], Run]:
    """Makes a function one of the actions."""

    def made(run: Run) -> Run:
        ACTIONS.append(Action(weight, run))
        return run

    return made


# -- where


def _root(sim: Scenario, machine: Machine) -> str:
    if machine.worktree is not None and sim.rng.random() < 0.3:
        return machine.worktree
    return machine.root


def _is_away(machine: Machine, root: str) -> bool:
    return any(machine.context(root).startswith(folder) for folder in machine.away)


def _pick(sim: Scenario, machine: Machine) -> tuple[SessionId, str] | None:
    """A session that is here and whose last line is complete."""
    root = _root(sim, machine)
    here = sorted(machine.sessions(root))
    whole = [one for one in here if machine.transcript(SessionId(one), root) not in machine.torn]
    return (SessionId(sim.rng.choice(whole)), root) if whole else None


def session_action(
    weight: float,
) -> Callable[[Callable[[Scenario, Machine, SessionId, str], str | None]], Run]:
    """Makes a function an action on a session of the machine that is there, in the folder of a root."""

    def made(run: Callable[[Scenario, Machine, SessionId, str], str | None]) -> Run:
        def on_some(sim: Scenario, machine: Machine) -> str | None:
            picked = _pick(sim, machine)
            return None if picked is None else run(sim, machine, *picked)

        return action(weight)(on_some)

    return made


def _line(fields: object) -> bytes:
    return json.dumps(fields, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def _said(sim: Scenario, machine: Machine, session: SessionId, root: str) -> bytes:
    other = sim.rng.choice(sim.machines)
    return machine.spoken(session, f"see {other.root}/x and {machine.context(root)}/y", cwd=root)


def _booked(sim: Scenario, session: SessionId) -> bytes:
    return _line({"type": "last-prompt", "sessionId": session, "text": f"book-{sim.number()}"})


def _remember_version(sim: Scenario, machine: Machine, path: str) -> bytes:
    data = machine.files.content(path)
    if path not in machine.older or sim.rng.random() < 0.3:
        machine.older[path] = data
    return data


# -- what a client does


@session_action(10)
def say(sim: Scenario, machine: Machine, session: SessionId, root: str) -> str | None:
    """A session goes on, by a record or several at once."""
    path = machine.transcript(session, root)
    _remember_version(sim, machine, path)
    records = [_said(sim, machine, session, root) for _ in range(sim.rng.choice((1, 1, 1, 2, 5)))]
    machine.go_on(path, b"".join(records))
    return f"{machine.key}: says {marks_in(b''.join(records))} in {session[:4]}"


@action(3)
def begin(sim: Scenario, machine: Machine) -> str | None:
    """A new session."""
    root = _root(sim, machine)
    if _is_away(machine, root):
        return None
    session = sim.hire()
    record = _said(sim, machine, session, root)
    machine.go_on(machine.transcript(session, root), record)
    return f"{machine.key}: begins {session[:4]} with {marks_in(record)} in {root}"


@session_action(3)
def tear(sim: Scenario, machine: Machine, session: SessionId, root: str) -> str | None:
    """A line is written in two pieces."""
    path = machine.transcript(session, root)
    record = _said(sim, machine, session, root)
    cut = sim.rng.choice((1, 30, len(record) - 1))
    machine.go_on(path, record[:cut])
    machine.torn[path] = record[cut:]
    return f"{machine.key}: writes {cut} bytes of {marks_in(record)} to {session[:4]}"


@action(4)
def mend(sim: Scenario, machine: Machine) -> str | None:
    """The rest of such a line."""
    if not machine.torn or machine.away:
        return None
    path, rest = machine.torn.popitem()
    if machine.files.old(path) is None:  # type: ignore[attr-defined]
        return None
    machine.files.append(path, rest)
    return f"{machine.key}: writes the rest to {path[-42:-38]}"


@session_action(4)
def book(sim: Scenario, machine: Machine, session: SessionId, root: str) -> str | None:
    """The client keeps its books."""
    if not machine.local_bytes(session, root):
        return None  # alone it would not tell which project it is about
    record = _booked(sim, session)
    machine.go_on(machine.transcript(session, root), record)
    return f"{machine.key}: books {marks_in(record)} in {session[:4]}"


@session_action(2)
def repeat(sim: Scenario, machine: Machine, session: SessionId, root: str) -> str | None:
    """Lines stand twice: the same bookkeeping, or what a second compaction carries over."""
    path = machine.transcript(session, root)
    lines = machine.files.content(path).split(b"\n")[:-1]
    if not lines:
        return None
    start = sim.rng.randrange(len(lines))
    again = lines[start : start + sim.rng.choice((1, 1, 2, 4))]
    machine.go_on(path, b"".join(line + b"\n" for line in again))
    return f"{machine.key}: repeats {marks_in(b''.join(again))} in {session[:4]}"


@session_action(1)
def branch_off(sim: Scenario, machine: Machine, session: SessionId, root: str) -> str | None:
    """The client forks a session itself: all records under a new name, then it goes on."""
    data = machine.local_bytes(session, root)
    fresh = sim.hire()
    copied = data.replace(session.encode(), fresh.encode()) + _said(sim, machine, fresh, root)
    machine.files.append(machine.transcript(fresh, root), copied)
    return f"{machine.key}: forks {session[:4]} as {fresh[:4]}"


@session_action(1.5)
def rewrite_tail(sim: Scenario, machine: Machine, session: SessionId, root: str) -> str | None:
    """The client removes messages at the end, and goes on."""
    path = machine.transcript(session, root)
    lines = machine.files.content(path).split(b"\n")[:-1]
    if len(lines) < 2:
        return None
    _remember_version(sim, machine, path)
    kept = lines[: -sim.rng.randint(1, min(3, len(lines) - 1))]
    fresh = _said(sim, machine, session, root) if sim.rng.random() < 0.7 else b""
    machine.files.write(path, b"".join(line + b"\n" for line in kept) + fresh)
    machine.rewritten.add(path)
    return f"{machine.key}: takes {len(lines) - len(kept)} lines from {session[:4]}, adds {marks_in(fresh)}"


@session_action(0.7)
def shorten(sim: Scenario, machine: Machine, session: SessionId, root: str) -> str | None:
    """A transcript is cut off somewhere, or emptied."""
    path = machine.transcript(session, root)
    data = machine.files.content(path)
    cut = data.rfind(b"\n", 0, sim.rng.randint(0, len(data))) + 1
    machine.files.write(path, data[:cut])
    machine.rewritten.add(path)
    return f"{machine.key}: cuts {session[:4]} to {cut} of {len(data)} bytes"


@action(0.7)
def put_older(sim: Scenario, machine: Machine) -> str | None:
    """An older copy of a transcript takes its place."""
    paths = [one for one in machine.older if machine.files.old(one) is not None and one not in machine.torn]  # type: ignore[attr-defined]
    if not paths:
        return None
    path = sim.rng.choice(paths)
    data = machine.older[path]
    machine.files.unlink(path)
    machine.files.write(path, data[: data.rfind(b"\n") + 1])
    machine.rewritten.add(path)
    return f"{machine.key}: puts back an older {path[-42:-38]} of {len(data)} bytes"


@session_action(2)
def attach(sim: Scenario, machine: Machine, session: SessionId, root: str) -> str | None:
    """A subagent goes on, a tool answers, or a title is given."""
    folder = f"{machine.context(root)}/{session}"
    number = sim.number()
    kind = sim.rng.choice(("agent", "tool", "title"))
    if kind == "agent":
        record = _line({"type": "user", "uuid": f"agent-{number}", "cwd": root})
        machine.files.append(f"{folder}/subagents/agent-1.jsonl", record)
    elif kind == "tool":
        machine.files.write(f"{folder}/tool-results/{number}.txt", f"see {machine.root} {number}".encode())
    else:
        machine.files.write(f"{folder}/custom-title.json", _line({"title": f"t{number} {machine.home}"}))
    return f"{machine.key}: {kind} {number} for {session[:4]}"


@action(4)
def remember(sim: Scenario, machine: Machine) -> str | None:
    """A line is added to a note, at its end or at its beginning."""
    root = _root(sim, machine)
    if _is_away(machine, root):
        return None
    name = sim.rng.choice(NOTES)
    line = f"note-{sim.number()}-{machine.key} in {root}\n"
    path = machine.memory(name, root)
    old = machine.files.old(path)  # type: ignore[attr-defined]
    new = line.encode() + (old or b"") if sim.rng.random() < 0.2 else (old or b"") + line.encode()
    machine.files.write(path, new)
    sim.invariants.added(name, line.split(maxsplit=1)[0])
    return f"{machine.key}: notes {line.split(maxsplit=1)[0]} in {name}"


@action(2)
def revise(sim: Scenario, machine: Machine) -> str | None:
    """A note is written anew, in part or as a whole."""
    notes = machine.notes()
    if not notes:
        return None
    name = sim.rng.choice(sorted(notes))
    lines = notes[name].splitlines(keepends=True) or [""]
    lines[sim.rng.randrange(len(lines))] = f"note-{sim.number()}-{machine.key} anew\n"
    machine.remember(name, "".join(lines))
    sim.invariants.revised(name)
    return f"{machine.key}: revises {name}"


@action(1)
def forget(sim: Scenario, machine: Machine) -> str | None:
    """A note is deleted."""
    notes = sorted(machine.notes())
    if not notes:
        return None
    name = sim.rng.choice(notes)
    machine.files.unlink(machine.memory(name))
    sim.invariants.revised(name)
    return f"{machine.key}: deletes the note {name}"


@session_action(0.8)
def delete(sim: Scenario, machine: Machine, session: SessionId, root: str) -> str | None:
    """A session is deleted here."""
    machine.files.unlink(machine.transcript(session, root))
    machine.deleted.add(session)
    return f"{machine.key}: deletes {session[:4]} in {root}"


@action(4)
def run_client(sim: Scenario, machine: Machine) -> str | None:
    """A client starts in the project, or one ends."""
    running = machine.processes.claude()
    if running and sim.rng.random() < 0.6:
        machine.processes.end(running[0].pid)
        return f"{machine.key}: a client ends"
    cwd = None if sim.rng.random() < 0.1 else _root(sim, machine)
    session = sim.sessions[sim.number() % len(sim.sessions)] if sim.sessions else None
    machine.processes.begin(cwd, session)
    return f"{machine.key}: a client starts in {cwd} with {session and session[:4]}"


# -- what happens to folders


@action(0.6)
def lose_folder(sim: Scenario, machine: Machine) -> str | None:
    """The project's folder, its memory, or all projects are moved away."""
    if machine.away:
        return None
    projects = machine.machine.projects_dir
    folder = sim.rng.choice((projects, machine.context(), f"{machine.context()}/memory"))
    if machine.files.list(folder) is None:  # type: ignore[arg-type]
        return None
    machine.away[folder] = f"{machine.home}/elsewhere"
    machine.files.move(folder, machine.away[folder])
    sim.invariants.is_muddled = True
    return f"{machine.key}: moves {folder} away"


@action(2)
def return_folder(sim: Scenario, machine: Machine) -> str | None:
    """What was moved away comes back."""
    if not machine.away:
        return None
    folder, place = machine.away.popitem()
    if machine.files.list(folder) is not None:  # type: ignore[arg-type]
        machine.muddled = True
    machine.files.move(place, folder)
    return f"{machine.key}: brings {folder} back"


@action(0.7)
def back_up(sim: Scenario, machine: Machine) -> str | None:
    """A backup is made of all a machine has."""
    if machine.away:
        return None
    machine.backup = Backup(machine)
    return f"{machine.key}: is backed up"


@action(0.7)
def restore(sim: Scenario, machine: Machine) -> str | None:
    """All or a part of a machine goes back to its backup."""
    if machine.backup is None or machine.away:
        return None
    what = sim.rng.choice(("all", "files", "store", "state"))
    if machine.is_running:
        sim.kill(machine)
    if what in ("all", "files"):
        machine.rewritten.update(machine.backup.files)
        machine.files.put_back(machine.machine.projects_dir, machine.backup.files)
        machine.torn.clear()
        machine.muddled = True
    if what in ("all", "store"):
        machine.use_store(machine.backup.store.copy())
    if what in ("all", "state"):
        machine.state.close()
        machine.state = copy_state(machine.backup.state)
    sim.invariants.restored(machine)
    machine.start()
    return f"{machine.key}: {what} restored from the backup"


# -- peers


@action(4)
def trouble_peer(sim: Scenario, machine: Machine) -> str | None:
    """The way to a hub breaks, in one of many ways."""
    peer = machine.peers[sim.rng.choice(sorted(machine.peers))]
    kind = sim.rng.choice(("unreachable", "refusing", "lost push", "lost answer", "fetch breaks", "well"))
    if kind == "lost push":
        peer.lost_pushes = 1
    elif kind == "lost answer":
        peer.lost_answers = 1
    elif kind == "fetch breaks":
        peer.fetch_breaks_after = sim.rng.randint(0, 12)
    else:
        peer.unreachable, peer.refusing = kind == "unreachable", kind == "refusing"
    return f"{machine.key}: the way to {peer.name}: {kind}"


@action(0.8)
def rewind_hub(sim: Scenario, machine: Machine) -> str | None:
    """A hub's branch goes back in history, or away."""
    name = sim.rng.choice(sorted(sim.world.hubs))
    hub, ref = sim.world.hubs[name], project_ref(APP)
    tip = hub.refs(ref).get(ref)
    if tip is None:
        return None
    past = [tip]
    for _ in range(sim.rng.randint(1, 4)):
        # Back to what could have been there: a second folder's first commit does not tell whose it is.
        parents = [one for one in hub.read_commit(past[-1]).parents if project_at(hub, one).machines]
        if not parents:
            break
        past.append(sim.rng.choice(parents))
    to = None if sim.rng.random() < 0.3 or past[-1] == tip else past[-1]
    machine.peers[name].rewind(ref, to)
    return f"the hub {name} is at {to and to[:8]} again"


# -- the daemon's own troubles


@action(1.5)
def stop_daemon(sim: Scenario, machine: Machine) -> str | None:
    """The daemon ends, in order or not."""
    if not machine.is_running:
        return None
    if sim.rng.random() < 0.5:
        with sim.acting(machine):
            try:
                machine.stop()
            except CrashError:
                machine.crash()
                machine.workers = QueuedWorkers()
        sim.invariants.died(machine)
        return f"{machine.key}: the daemon stops"
    sim.kill(machine)
    return f"{machine.key}: the daemon is killed"


@action(5)
def start_daemon(sim: Scenario, machine: Machine) -> str | None:
    """The daemon starts again, perhaps without its notes."""
    if machine.is_running:
        return None
    lost = sim.rng.random() < 0.25
    if lost:
        machine.lose_state()
    machine.start()
    return f"{machine.key}: the daemon starts{', its state is lost' if lost else ''}"


@action(10)
def ambush(sim: Scenario, machine: Machine) -> str | None:
    """Something is to happen at an exact moment: a crash, a client, another job."""
    kind, happens = sim.rng.choice(AMBUSHES)
    moment = sim.rng.choice(WRITING if kind != "crash" and sim.rng.random() < 0.5 else MOMENTS)
    turn = sim.rng.choice((1, 1, 1, 2, 3))
    sim.armed[machine.key] = (moment, turn, _told(sim, machine, f"at {moment}: {kind}", happens))
    return None


def _told(sim: Scenario, machine: Machine, text: str, happens: Run) -> Moment:
    def run() -> None:
        sim.note(f"  {machine.key}: {text}")
        told = happens(sim, machine)
        if told is not None:
            sim.note(f"  {told}")

    return run


def _crash(sim: Scenario, machine: Machine) -> str | None:
    raise CrashError


def _nested(sim: Scenario, machine: Machine) -> str | None:
    """Another worker runs a job meanwhile; those of the lane that is under way wait."""
    acting = [lane for lane in machine.workers.waiting() if not lane.startswith("local")]
    sim.run_job(machine, acting)
    return None


def _start_client(sim: Scenario, machine: Machine) -> str | None:
    machine.processes.begin(machine.root)
    return f"{machine.key}: a client starts"


def _apart(act: Run) -> Run:
    """As the world does it, not the machine's daemon."""

    def run(sim: Scenario, machine: Machine) -> str | None:
        with sim.acting(None):
            return act(sim, machine)

    return run


AMBUSHES: tuple[tuple[str, Run], ...] = (
    ("crash", _crash),
    ("crash", _crash),
    ("crash", _crash),
    ("another job", _nested),
    *(("a client starts", _start_client),) * 3,
    *((act.__name__, _apart(act)) for act in (say, say, tear, mend, book, rewrite_tail, remember, delete)),
    ("the peer", _apart(trouble_peer)),
    ("the hub", _apart(rewind_hub)),
)


@action(1)
def deafen(sim: Scenario, machine: Machine) -> str | None:
    """Hints are lost, or not any more."""
    machine.watcher.deaf = not machine.watcher.deaf
    return f"{machine.key}: hints are {'lost' if machine.watcher.deaf else 'heard'}"


@action(2)
def hint(sim: Scenario, machine: Machine) -> str | None:
    """Hints come late, twice, or for nothing."""
    if not machine.is_running:
        return None
    paths = [*machine.files.paths(machine.machine.projects_dir), f"{machine.context()}/gone"]
    for path in sim.rng.choices(paths, k=sim.rng.choice((1, 2, 6))):
        machine.watcher.hint(path)
    return f"{machine.key}: hints"


@action(1)
def pause(sim: Scenario, machine: Machine) -> str | None:
    """Work is paused, or taken up again."""
    if not machine.is_running:
        return None
    if machine.engine.board.pauses:
        machine.engine.resume([])
        return None
    until = sim.rng.choice((None, machine.clock.now() + 50))
    machine.engine.pause(sim.rng.choice(([], [APP])), until)
    return f"{machine.key}: pauses until {until}"


# -- time


@action(10)
def pass_time(sim: Scenario, machine: Machine) -> str | None:
    """Time passes, and everything that is due is done, or nothing of it."""
    seconds = sim.rng.choice((0.1, 1.0, 2.5, 10.0, 61.0, 200.0))
    if sim.rng.random() < 0.7:
        sim.advance(seconds)
    else:
        sim.world.clock.advance(seconds)
    return f"{seconds} s pass"


@action(1)
def set_clock(sim: Scenario, machine: Machine) -> str | None:
    """A machine's clock is set."""
    jump = sim.rng.choice((-4_000.0, -90.0, 90.0, 4_000.0, 30 * 86_400.0))
    machine.clock.set_now(machine.clock.now() + jump)
    return f"{machine.key}: the clock jumps by {jump}"


@action(0.3)
def sleep_long(sim: Scenario, machine: Machine) -> str | None:
    """Days pass."""
    days = sim.rng.choice((1, 20))
    sim.world.clock.advance(days * 86_400.0)
    return f"{days} days pass"


# -- the end of all trouble


def heal(sim: Scenario, machine: Machine) -> None:
    """Nothing troubles the machine any more."""
    for pid in [process.pid for process in machine.processes.claude()]:
        machine.processes.end(pid)
    for peer in machine.peers.values():
        peer.unreachable = peer.refusing = False
        peer.lost_pushes = peer.lost_answers = 0
        peer.fetch_breaks_after = None
    while machine.away:
        return_folder(sim, machine)
    while machine.torn:
        mend(sim, machine)
    machine.watcher.deaf = False
    if not machine.is_running:
        machine.start()
    if machine.engine.board.pauses:
        machine.engine.resume([])
