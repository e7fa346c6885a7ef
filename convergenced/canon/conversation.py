"""Owns what a person reads in a transcript: who said what when, and what a session is called.

Records as in `canon.transcript`: a line that cannot be understood says nothing, nothing here raises on any
bytes. Texts are as they stand, in canonical or in local form, with whatever a terminal would obey.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from convergenced.canon.transcript import parse_record, unix_seconds

Who = Literal["user", "assistant", "agent", "system"]
Kind = Literal["text", "call", "result", "thinking", "summary", "note"]

MAX_PARSED = 64 * 1024 * 1024
"""Bytes in a record that is looked into, at most."""
LAST_MOMENT = 253_402_000_000.0
"""What is later than that, in Unix seconds, or before 1970, is no time that a calendar could show."""
MAX_TITLE = 200
"""Characters of a title or a first prompt that are kept."""

_MAIN_ARGUMENT = (
    *("command", "pattern", "file_path", "notebook_path", "path", "url", "query"),
    *("description", "prompt", "skill", "subject"),
)
"""What tells most about a tool call, the best first."""
_COMMAND = re.compile(r"<command-name>\s*(.*?)\s*</command-name>", re.DOTALL)
_ARGUMENTS = re.compile(r"<command-args>\s*(.*?)\s*</command-args>", re.DOTALL)
_MACHINERY = ("<local-command", "<system-reminder>", "<command-message>", "<bash-", "Caveat: The ")
"""How user records begin that no user wrote."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One thing that was said or done. `at` is Unix seconds, None where the record does not tell.

    `call`: `text` is the tool's name and its main argument. `result`: what a tool gave. `summary`: what the
    client wrote when it compacted the conversation. `note`: the client's own remarks.
    """

    who: Who
    kind: Kind
    text: str
    at: float | None
    is_error: bool = False


def read_entries(record: bytes) -> list[Entry]:
    """What a person would want to read of the record, in order; nothing for bookkeeping."""
    if len(record) > MAX_PARSED:
        return [Entry("system", "note", f"a record of {len(record) >> 20} MiB, too long to be shown", None)]
    if b'"message"' not in record and b'"system"' not in record:
        return []
    value = parse_record(record)
    if value is None:
        return []
    stamp = value.get("timestamp")
    kind, at = value.get("type"), sound_time(unix_seconds(stamp if isinstance(stamp, str) else None))
    if kind == "system":
        text = value.get("content")
        if value.get("subtype") == "compact_boundary":
            text = "the conversation was compacted here"
        return [Entry("system", "note", text, at)] if isinstance(text, str) and text.strip() else []
    message = value.get("message")
    if kind not in ("user", "assistant") or not isinstance(message, dict):
        return []
    who: Who = "agent" if value.get("isSidechain") is True else kind
    plain: Kind = "text"
    if value.get("isCompactSummary") is True:
        plain = "summary"
    elif value.get("isMeta") is True:
        plain = "note"
    content = message.get("content")
    blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content
    return list(_read_blocks(blocks, who, plain, at)) if isinstance(blocks, list) else []


def sound_time(moment: float | None) -> float | None:
    """The moment (Unix seconds), None where no calendar could show it."""
    return moment if moment is not None and 0 <= moment <= LAST_MOMENT else None


def name_of(records: Iterable[bytes]) -> str:
    """What the last of the records that names its session calls it, on one line; empty where none does."""
    name = ""
    for record in records:
        if b'"custom-title"' in record or b'"summary"' in record:
            value = parse_record(record) or {}
            key = {"custom-title": "customTitle", "summary": "summary"}.get(str(value.get("type")), "")
            name = _line(value.get(key)) or name
    return name


def name_in(document: bytes) -> str:
    """What a session's `custom-title.json` calls it; empty where it does not say."""
    return _line((parse_record(document) or {}).get("customTitle"))


def first_prompt(records: Iterable[bytes]) -> str:
    """What the user asked first, on one line; empty where these records do not tell."""
    command = ""
    for record in records:
        if b'"user"' not in record:
            continue
        for entry in read_entries(record):
            if entry.who != "user" or entry.kind != "text":
                continue
            if found := _COMMAND.search(entry.text):
                arguments = _ARGUMENTS.search(entry.text)
                command = command or _line(f"{found[1]} {arguments[1] if arguments else ''}")
            elif not entry.text.lstrip().startswith(_MACHINERY) and (line := _line(entry.text)):
                return line
    return command


def _read_blocks(blocks: list[Any], who: Who, plain: Kind, at: float | None) -> Iterator[Entry]:
    for block in blocks:
        if not isinstance(block, dict):
            continue
        match block.get("type"):
            case "text":
                text = block.get("text")
                if isinstance(text, str) and text.strip():
                    yield Entry(who, plain, text, at)
            case "thinking" | "redacted_thinking":
                text = block.get("thinking")
                yield Entry(who, "thinking", text if isinstance(text, str) else "", at)
            case "tool_use" | "server_tool_use":
                yield Entry(who, "call", _describe_call(block), at)
            case "tool_result":
                text = _flatten(block.get("content"))
                yield Entry(who, "result", text, at, block.get("is_error") is True)
            case "image" | "document" as kind:
                yield Entry(who, plain, f"[{kind}]", at)


def _describe_call(block: dict[str, Any]) -> str:
    name, given = block.get("name"), block.get("input")
    argument: object = given
    if isinstance(given, dict):
        known = (given[key] for key in _MAIN_ARGUMENT if isinstance(given.get(key), str))
        argument = next(known, given or "")
    text = argument if isinstance(argument, str) else json.dumps(argument, ensure_ascii=False)
    return f"{name if isinstance(name, str) else 'a tool'}: {text}" if text else str(name)


def _flatten(content: object) -> str:
    """A tool's result as text."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return ""
    texts = []
    for block in content:
        if isinstance(block, dict):
            text = block.get("text")
            texts.append(text if isinstance(text, str) else f"[{block.get('type')}]")
    return "\n".join(texts)


def _line(text: object) -> str:
    """The beginning of a text on one line."""
    if not isinstance(text, str):
        return ""
    line = " ".join(text[: 4 * MAX_TITLE].split())[:MAX_TITLE]
    return line.encode("utf-8", "replace").decode()  # half a character is none
