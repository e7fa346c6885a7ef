"""What would and would not be synced of one context folder, told before anything is written.

Reads the folder as ingest would and writes nothing, neither there nor to the store. Promise: bounded in
what it reads, the newest files first, and it says where it stopped.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field

from convergenced.canon.residue import Kind, ResidueFinder
from convergenced.canon.rewrite import Rewriter
from convergenced.errors import ConvergenceError
from convergenced.model import Content, Finding, ProjectId, Snapshot
from convergenced.sync.replica import Parts, Replica
from convergenced.sync.scan import MEMORY, Scan, content_of, scan_folder
from convergenced.wording import plural

READ_BYTES = 4 * 1024 * 1024
MOST_BYTES = 64 * 1024 * 1024
"""Bytes of one folder that are looked into."""
MAX_NAMED = 20
"""Findings of one kind that are told one by one; the rest is counted."""

_KINDS: tuple[tuple[Kind, str, str], ...] = (
    ("path", "path", "outside home and project"),
    ("folder name", "name", "of other projects' folders"),
)


@dataclass(slots=True)
class _Read:
    """What reading the files gave."""

    residue: ResidueFinder
    files: int = 0
    size: int = 0
    left_out: int = 0
    torn: int = 0
    strange: dict[str, int] = field(default_factory=dict)
    """By path, how many records (1 for a file that is no transcript) would not come back."""
    unreadable: dict[str, str] = field(default_factory=dict)


def forecast(
    parts: Parts, replica: Replica, rewrite_home: bool, others: Collection[str]
) -> Iterator[Finding]:
    """The findings about one folder. `others` are the encoded names of the other projects' folders."""
    project = replica.project
    try:
        scan = scan_folder(parts.files, replica.context_dir(parts.machine))
    except (ConvergenceError, OSError) as error:
        yield Finding("files", "problem", f"{replica.folder} cannot be read: {error}", project)
        return
    if scan is None:
        yield Finding("files", "ok", f"Claude Code was not used in {replica.root} yet", project)
        return
    yield from _about_files(scan, project)
    found = _read(parts, replica, replica.rewriter(parts.machine, rewrite_home), scan, others)
    yield from _about_round_trip(found, project)
    yield from _about_records(found, project)
    yield from _about_residue(found, project)


def _about_files(scan: Scan, project: ProjectId) -> Iterator[Finding]:
    for refusal in scan.refusals[:MAX_NAMED]:
        text = f"{refusal.where} {refusal.reason}"
        yield Finding("files", "warning", text, project, refusal.remedy)
    if (more := len(scan.refusals) - MAX_NAMED) > 0:
        yield Finding("files", "warning", f"{more} more files are not synced", project, "see those above")
    hollow = sum(1 for snapshot in scan.transcripts.values() if snapshot.size == 0)
    empty = f", {hollow} of them empty" if hollow else ""
    text = (
        f"{plural(len(scan.transcripts), 'session')}{empty},"
        f" {plural(len(scan.attached), 'file')} beside them"
        f" and {plural(len(scan.memory), 'memory note')} can be synced"
    )
    yield Finding("files", "ok", text, project)


def _about_round_trip(found: _Read, project: ProjectId) -> Iterator[Finding]:
    for path, reason in list(found.unreadable.items())[:MAX_NAMED]:
        yield Finding("round-trip", "warning", f"{path} cannot be read: {reason}", project, "check the file")
    for path, count in list(found.strange.items())[:MAX_NAMED]:
        what = f"{count} records" if count > 1 else "a record" if path.endswith(".jsonl") else "content"
        text = f"{path} has {what} that would not come back byte for byte; it stays on this machine"
        yield Finding("round-trip", "warning", text, project, "please report this; nothing is lost here")
    if not found.strange and not found.unreadable:
        older = plural(found.left_out, "older file")
        rest = f"; {older} were not looked into" if found.left_out else ""
        text = f"{plural(found.files, 'file')} come back byte for byte{rest}"
        yield Finding("round-trip", "ok", text, project)


def _about_records(found: _Read, project: ProjectId) -> Iterator[Finding]:
    parts = []
    unparsable = found.residue.found.unparsable
    if unparsable.count:
        noun = "record is" if unparsable.count == 1 else "records are"
        parts.append(
            f"{unparsable.count} {noun} no JSON object (the first has {unparsable.example}):"
            " kept and synced as they stand"
        )
    if found.torn:
        noun = "transcript ends" if found.torn == 1 else "transcripts end"
        parts.append(f"{found.torn} {noun} in the middle of a record, which waits for its end")
    yield Finding("records", "ok", "; ".join(parts) or "all records can be understood", project)


def _about_residue(found: _Read, project: ProjectId) -> Iterator[Finding]:
    residue = found.residue.found
    parts = []
    for kind, noun, where in _KINDS:
        most = residue.most(kind)
        if most is not None:
            total = plural(residue.total(kind), noun)
            fields = plural(sum(1 for _, one in residue.fields if one == kind), "field")
            name, tally = most
            parts.append(
                f"{total} {where} in {fields}, most in {name} ({tally.count}, such as {tally.example})"
            )
    text = "; ".join(parts)
    text = f"{text}: they stay as they are on every machine" if parts else "nothing is bound to this machine"
    yield Finding("residue", "ok", text, project)


def _read(parts: Parts, replica: Replica, rewriter: Rewriter, scan: Scan, others: Collection[str]) -> _Read:
    found = _Read(ResidueFinder(others))
    files = {f"{sid}.jsonl": snapshot for sid, snapshot in scan.transcripts.items()}
    files |= scan.attached | scan.memory
    newest_first = sorted(files.items(), key=lambda one: (-one[1].mtime_ns, one[0]))
    for path, snapshot in newest_first:
        if found.size > MOST_BYTES:
            found.left_out += 1
            continue
        try:
            _read_file(parts, replica, rewriter, path, snapshot, found)
        except (ConvergenceError, OSError) as error:
            found.unreadable[path] = str(error)
    return found


def _read_file(
    parts: Parts, replica: Replica, rewriter: Rewriter, path: str, snapshot: Snapshot, found: _Read
) -> None:
    content = content_of(path)
    assert content is not None, path
    found.files += 1
    local_path = replica.path(parts.machine, path)
    carry = b""
    at = 0
    while at < snapshot.size and found.size <= MOST_BYTES:
        piece = parts.files.read(local_path, at, READ_BYTES)
        if not piece:
            break
        at += len(piece)
        found.size += len(piece)
        carry += piece
        if path.endswith(".jsonl"):
            complete, carry = carry[: carry.rfind(b"\n") + 1], carry[carry.rfind(b"\n") + 1 :]
            _look_at_records(rewriter, path, complete, found)
    if path.endswith(".jsonl"):
        found.torn += bool(carry)
    elif at >= snapshot.size:
        canonical = rewriter.canonicalize(carry, content)
        if rewriter.localize(canonical, content) != carry:
            found.strange[path] = 1
        if path.startswith(f"{MEMORY}/"):
            found.residue.look_at_text(canonical)


def _look_at_records(rewriter: Rewriter, path: str, complete: bytes, found: _Read) -> None:
    canonical = rewriter.canonicalize(complete, Content.JSON)
    if rewriter.localize(canonical, Content.JSON) != complete:
        records = complete.split(b"\n")
        strange = sum(not rewriter.is_reversible(record, Content.JSON) for record in records)
        found.strange[path] = found.strange.get(path, 0) + max(1, strange)
    found.residue.look_at_records(canonical.split(b"\n")[:-1])
