"""What a sync would do, without doing it: `sync --dry-run`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from convergenced.model import Oid, ProjectId
from convergenced.sync.localize import holder_of
from convergenced.sync.replica import Parts, Replica, replica_ref
from convergenced.sync.scan import scan_folder
from convergenced.sync.tips import ref_of, tip_of


def preview(
    parts: Parts,
    replicas: Sequence[Replica],
    tracked: Mapping[tuple[str, ProjectId], Oid],
    peers: Sequence[str],
    *,
    whole_machine: bool,
) -> list[tuple[str, str]]:
    """Lines of (project, what would be done), from what is known without asking a peer."""
    lines: list[tuple[str, str]] = []
    for replica in replicas:
        lines.extend((replica.project, text) for text in _local(parts, replica, whole_machine))
    for project in sorted({replica.project for replica in replicas}):
        tip = tip_of(parts.store, project)
        lines.extend(
            (project, f"push to {peer}")
            for peer in peers
            if tip is not None and tracked.get((peer, project)) != tip
        )
    return lines


def _local(parts: Parts, replica: Replica, whole_machine: bool) -> list[str]:
    scan = scan_folder(parts.files, replica.context_dir(parts.machine))
    notes = parts.state.files(replica.folder)
    found = {}
    if scan is not None:
        found = {f"{sid}.jsonl": snapshot for sid, snapshot in scan.transcripts.items()}
        found |= scan.attached | scan.memory
    changed = [
        path for path, snapshot in found.items() if path not in notes or notes[path].snapshot != snapshot
    ]
    lines = []
    noun = "file" if len(changed) == 1 else "files"
    if changed:
        size = sum(found[path].size - (notes[path].consumed if path in notes else 0) for path in changed)
        lines.append(f"commit {len(changed)} changed {noun} (up to {max(0, size)} bytes)")
    tip = tip_of(parts.store, replica.project)
    if tip is not None and ref_of(parts.store, replica_ref(replica)) != tip:
        holder = holder_of(parts, replica, whole_machine)
        wait = f"; held by Claude Code (pid {holder.pid})" if holder is not None else ""
        lines.append(f"write what arrived into {replica.root}{wait}")
    return lines
