"""The lineages of a session are those of the tree of its turns, whoever met whom in which order."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from convergenced.canon.transcript import facts, fork_id
from convergenced.model import SessionId
from tests.fakes.store import MemoryStore
from tests.property.test_session_merge import State, take_in
from tests.transcripts import SID, keep, records_of, spoken

Turn = tuple[str, int]
"""A turn's name, which no other has, and its minute."""

Path = tuple[Turn, ...]


def name_all(paths: Sequence[Path], sid: SessionId = SID, depth: int = 0) -> dict[SessionId, Path]:
    """Each lineage by its session's id: the rule itself, on all that was ever said."""
    longest = max(paths, key=len)
    while depth < len(longest) and all(
        path[depth : depth + 1] in ((), longest[depth : depth + 1]) for path in paths
    ):
        depth += 1
    if depth == len(longest):
        return {sid: longest}
    branches: dict[Turn, list[Path]] = {}
    for path in paths:
        if len(path) > depth:
            branches.setdefault(path[depth], []).append(path)
    named: dict[SessionId, Path] = {}
    for number, turn in enumerate(sorted(branches, key=lambda turn: (turn[1], _fork(turn)))):
        named |= name_all(branches[turn], _fork(turn) if number else sid, depth)
    return named


def _fork(turn: Turn) -> SessionId:
    return fork_id(SID, spoken(*turn))


class Replica:
    """What a machine has of the session, and the file its client writes to."""

    def __init__(self, store: MemoryStore, name: str) -> None:
        self._store = store
        self._name = name
        self._said = 0
        self.sid = SID
        self.local: Path = (("start", 0),)
        self.state: State = {}

    def say(self, minute: int) -> Path:
        self._said += 1
        self.local = (*self.local, (f"{self._name}{self._said}", minute))
        return self.local

    def follow(self, number: int) -> None:
        sessions = sorted(self.state)
        self.sid = sessions[number % len(sessions)]
        self.local = path_of(self._store, self.state, self.sid)

    def ingest(self) -> None:
        mine = keep(self._store, (spoken(*turn, self.sid) for turn in self.local))
        self.state = take_in(self._store, self.state, {self.sid: mine})

    def learn(self, peer: Replica) -> None:
        self.state = take_in(self._store, self.state, peer.state)


def path_of(store: MemoryStore, state: State, sid: SessionId) -> Path:
    told = [facts(record) for record in records_of(store, state[sid])]
    assert all(record.session_id == sid for record in told)
    return tuple((record.uuid or "", int(record.timestamp or 0) // 60 % 60) for record in told)


STEPS = st.lists(
    st.tuples(
        st.integers(0, 4),
        st.sampled_from(["say", "say", "say", "learn", "learn", "follow", "ingest"]),
        st.integers(0, 9),
    ),
    min_size=12,
    max_size=40,
)


@given(st.integers(2, 5), STEPS)
def test_whoever_meets_whom_in_which_order(machines: int, steps: list[tuple[int, str, int]]) -> None:
    store = MemoryStore()
    replicas = [Replica(store, name) for name in "abcde"[:machines]]
    paths: list[Path] = [(("start", 0),)]
    for replica in replicas:
        replica.ingest()
    for who, what, number in steps:
        replica = replicas[who % machines]
        match what:
            case "say":
                paths.append(replica.say(number))
            case "ingest":
                replica.ingest()
            case "learn":
                replica.learn(replicas[number % machines])
            case "follow":
                replica.ingest()
                replica.follow(number)
    for _ in range(2):
        for replica in replicas:
            replica.ingest()
            for peer in replicas:
                peer.learn(replica)
    for replica in replicas:
        assert {sid: path_of(store, replica.state, sid) for sid in replica.state} == name_all(paths)
