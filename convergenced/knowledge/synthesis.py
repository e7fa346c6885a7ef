"""One scope's documents out of those of several machines: copied, merged by rule, or merged by a model.

Promises: a scope is taken whole or not at all; what a model answers is checked before it counts, and can
change nothing but the document it was asked for; a secret never stands in what is asked; no call is made
that could cost more than what is left.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal, cast

from convergenced.errors import ConvergenceError, MissingObjectError
from convergenced.knowledge.prompts import PROMPTS, Material, critic_question, merge_question
from convergenced.knowledge.provider import Answer, Model, PartialAnswerError, Question
from convergenced.knowledge.withholding import Withholding
from convergenced.merge.client_settings import merge_settings
from convergenced.merge.completeness import lost_sections
from convergenced.merge.contributions import (
    contributions,
    digest_of_inputs,
    inputs_of,
    with_rejection,
    with_synthesis,
)
from convergenced.merge.documents import Json
from convergenced.merge.imports import find_imports
from convergenced.merge.knowledge import (
    SETTINGS,
    DocumentPath,
    Inputs,
    Knowledge,
    Outcome,
    Rejection,
    Scope,
    Synthesis,
)
from convergenced.merge.markdown import MergedDocument, Version, merge_markdown, removed_sections
from convergenced.merge.marks import add_mark, conflict_mark, unverified_mark
from convergenced.model import MachineId, Oid
from convergenced.ports import Objects
from convergenced.wording import plural

MAX_ASKED = 256 * 1024
"""Bytes in one document that a model is given, at most; a larger one is merged by rule."""

MAX_ANSWER_TOKENS = 64_000
"""Tokens that an answer may need; models answer no longer."""

MAX_CONTRADICTIONS = 100
"""Contradictions in one document, at most: an answer with more is no merge."""

MAX_LISTED = 50
"""Marks or claims that a result names, at most."""

MAX_TOLD = 3
"""Settings that were set differently which a result tells of, at most."""

MAX_SAID = 300
"""Characters of one of them."""

COPIED = "copied"
BY_RULE = "merged by rule"
BY_MODEL = "merged by a model"
"""What becomes of a document, in words."""

AGAIN = "it is not taken; the next run asks again"

SPARE = 8 * 1024
"""Bytes that an answer may have beyond twice of all it was made of."""


@dataclass(frozen=True, slots=True)
class DocumentTask:
    """One document to make: what is consolidated now, and what machines made of it. Canonical bytes."""

    path: str
    current: bytes | None
    versions: tuple[Version, ...]


@dataclass(frozen=True, slots=True)
class ScopeTask:
    """The documents of one scope that somebody changed."""

    scope: str
    documents: tuple[DocumentTask, ...]


@dataclass(frozen=True, slots=True)
class ScopeResult:
    """What became of a task. `documents` is empty where it was rejected or failed.

    `marks` describe the contradictions and unverified claims that stand in the documents, `claims` what a
    rejected one claimed; `prompt` is a digest of the prompts, `usd` what was spent, also in vain.
    """

    scope: str
    outcome: Literal["copied", "merged", "rejected", "failed"]
    documents: Mapping[str, bytes] = field(default_factory=dict)
    marks: tuple[str, ...] = ()
    claims: tuple[str, ...] = ()
    model: str = ""
    prompt: str = ""
    usd: float = 0.0
    text: str = ""


def gather(store: Objects, knowledge: Knowledge, scope: Scope) -> ScopeTask:
    """What is to be synthesized in a scope: its documents to which some machine has something to say."""
    consolidated = knowledge.consolidated.get(scope, {})
    versions: dict[DocumentPath, list[Version]] = {}
    for one in contributions(knowledge, scope):
        name = knowledge.machines[one.machine].name or one.machine[:8]
        version = Version(name, store.read_blob(one.document), _base(store, one.base))
        versions.setdefault(one.path, []).append(version)
    return ScopeTask(
        scope,
        tuple(
            DocumentTask(
                path, store.read_blob(consolidated[path]) if path in consolidated else None, tuple(those)
            )
            for path, those in versions.items()
        ),
    )


def _base(store: Objects, oid: Oid | None) -> bytes | None:
    """What a version was made from; one that the store lacks is as good as none."""
    try:
        return None if oid is None else store.read_blob(oid)
    except MissingObjectError:
        return None


def estimate(task: ScopeTask, model: Model | None) -> tuple[int, float, str]:
    """Calls and dollars that a synthesis takes at the most, and what it does, in words. Asks nobody."""
    ways = [_way(document, model) for document in task.documents]
    usd = 0.0 if model is None else sum(_most(document, model) for document in task.documents)
    return 2 * ways.count(BY_MODEL), usd, _tally(ways)


def synthesize(
    task: ScopeTask,
    model: Model | None,
    *,
    reject_above: int,
    budget: float,
    allowed: Container[str] = (),
    salt: bytes = b"",
) -> ScopeResult:
    """Makes a scope's documents. `budget` is what may be spent on it, in dollars.

    `allowed` are fingerprints of secrets that may be given to a model, made with `salt`. What concerns this
    scope alone is told as a result that failed. Raises `ProviderError` for what concerns every scope.
    """
    return _Work(task, model, reject_above, budget, allowed, salt).run()


def record(
    store: Objects,
    knowledge: Knowledge,
    result: ScopeResult,
    task_inputs: Inputs,
    provider: str,
    machine: MachineId,
    at: int,
) -> Knowledge:
    """The branch with a result in it. `task_inputs` are those of the scope when it was gathered.

    The same knowledge where the result says nothing, where the scope's inputs are others by now, and where
    somebody else was first.
    """
    scope = Scope(result.scope)
    digest = digest_of_inputs(task_inputs)
    if digest_of_inputs(inputs_of(knowledge, scope)) != digest or not contributions(knowledge, scope):
        return knowledge
    if result.outcome == "rejected":
        rejection = Rejection(
            at=at,
            machine=machine,
            provider=provider,
            inputs=digest,
            claims=result.claims,
            model=result.model,
            prompt=result.prompt,
            usd=result.usd,
        )
        return with_rejection(knowledge, scope, rejection)
    if result.outcome == "failed":
        return knowledge
    synthesis = Synthesis(
        at=at,
        machine=machine,
        provider=provider,
        outcome=result.outcome,
        inputs=task_inputs,
        model=result.model,
        prompt=result.prompt,
        usd=result.usd,
        marks=result.marks,
    )
    documents = {DocumentPath(path): store.write_blob(data) for path, data in result.documents.items()}
    return with_synthesis(knowledge, scope, documents, synthesis)


class _UnmadeError(ConvergenceError):
    """A scope that cannot be made now."""


class _DistrustedError(ConvergenceError):
    """A merge by a model that one by rule is better than."""


class _RejectedError(ConvergenceError):
    """A scope with too many claims that nobody made."""


class _Work:
    """The making of one scope: what it cost so far, and what was found in it."""

    def __init__(
        self,
        task: ScopeTask,
        model: Model | None,
        reject_above: int,
        budget: float,
        allowed: Container[str],
        salt: bytes,
    ) -> None:
        self._task = task
        self._model = model
        self._reject_above = reject_above
        self._budget = budget
        self._salt = salt
        self._withholding = Withholding(_texts(task), allowed, salt)
        self._spent = 0.0
        self._answered = ""
        self._ways: list[str] = []
        self._marks: list[str] = []
        self._told: list[str] = []
        self._claims: list[str] = []

    def run(self) -> ScopeResult:
        try:
            documents = {document.path: self._make(document) for document in self._task.documents}
        except _RejectedError as error:
            return self._result("rejected", str(error), claims=self._claims[:MAX_LISTED])
        except (PartialAnswerError, _UnmadeError) as error:
            return self._result("failed", self._say(str(error)))
        outcome: Outcome = "copied" if all(way == COPIED for way in self._ways) else "merged"
        text = "; ".join([_tally(self._ways), *self._told[:MAX_TOLD]])
        return self._result(outcome, text, documents=documents, marks=self._marks[:MAX_LISTED])

    def _result(
        self,
        outcome: Literal["copied", "merged", "rejected", "failed"],
        text: str,
        *,
        documents: Mapping[str, bytes] | None = None,
        marks: Sequence[str] = (),
        claims: Sequence[str] = (),
    ) -> ScopeResult:
        return ScopeResult(
            self._task.scope,
            outcome,
            documents or {},
            tuple(marks),
            tuple(claims),
            self._answered,
            PROMPTS if self._answered else "",
            self._spent,
            text,
        )

    def _make(self, document: DocumentTask) -> bytes:
        copied = _copied(document)
        if copied is not None:
            self._ways.append(COPIED)
            return copied
        hidden = self._hide(document)
        if self._model is None or not _is_askable(hidden):
            merged = self._by_rule(document if document.path == SETTINGS else hidden, BY_RULE)
        else:
            merged = self._by_model_or_rule(self._model, hidden)
        return self._withholding.restore(merged)

    def _by_rule(self, document: DocumentTask, way: str) -> bytes:
        merged = _merge_by_rule(document)
        if document.path == SETTINGS:  # no mark can stand in it, so it is told with what was done
            self._told += [self._say(text) for text in merged.contradictions]
        else:
            self._marks += [self._mark(document, "CONFLICT", text) for text in merged.contradictions]
        self._ways.append(way)
        return merged.data

    def _by_model_or_rule(self, model: Model, document: DocumentTask) -> bytes:
        try:
            return self._by_model(model, document)
        except _DistrustedError as error:
            return self._by_rule(document, f"{BY_RULE} ({error})")

    def _by_model(self, model: Model, document: DocumentTask) -> bytes:
        """The document that the model made, with its marks. Raises where that is not to be trusted."""
        question = _merge_question(document, self._salt)
        self._afford(document, _most(document, model))
        value = self._ask(model, question).value
        merged = _document_of(value, document)
        self._check(document, merged)
        contradictions = cast("list[dict[str, str]]", value["contradictions"])
        if len(contradictions) > MAX_CONTRADICTIONS:
            raise _UnmadeError(
                f"the merge of {document.path} contradicts itself in {len(contradictions)} places"
            )
        claims = self._criticize(model, document, merged)
        for claim in claims:
            merged = self._put(merged, document, "UNVERIFIED", claim["quote"], claim["claim"])
        for one in contradictions:
            merged = self._put(merged, document, "CONFLICT", one["quote"], one["description"])
        self._ways.append(BY_MODEL)
        return merged

    def _check(self, document: DocumentTask, merged: bytes) -> None:
        """Raises where a merge lacks what it was to keep, or holds what no version may bring in."""
        inputs = _inputs(document)
        if not self._withholding.is_kept(merged, inputs):
            raise _DistrustedError("the model lost what was withheld from it")
        if lost_sections(_merge_by_rule(document).data, merged):
            raise _DistrustedError("the model left out whole sections")
        if not {*find_imports(merged)} <= {path for one in inputs for path in find_imports(one)}:
            raise _DistrustedError("the model would have further files read")

    def _criticize(self, model: Model, document: DocumentTask, merged: bytes) -> list[dict[str, str]]:
        """The claims of a merged document that nobody made. Raises where the scope has too many."""
        question = critic_question(document.path, _materials(document), merged.decode(), self._salt)
        self._afford(document, model.estimate(question))
        claims = cast("list[dict[str, str]]", self._ask(model, question).value["claims"])
        self._claims += [f"{document.path}: {self._say(claim['claim'])}" for claim in claims]
        if len(self._claims) > self._reject_above:
            raise _RejectedError(
                f"{plural(len(self._claims), 'claim')} that no machine made, and no more than "
                f"{self._reject_above} are taken",
                "convergencectl config set knowledge.reject_above says how many",
            )
        return claims

    def _afford(self, document: DocumentTask, usd: float) -> None:
        """Raises where so much more is more than may be spent."""
        left = self._budget - self._spent
        if usd > left:
            most = sum(_most(one, self._model) for one in self._task.documents if self._model is not None)
            raise _UnmadeError(
                f"merging {document.path} costs up to ${usd:.2f}, and ${left:.2f} may be spent",
                f"convergencectl config set knowledge.max_usd {math.ceil(max(most, usd))}",
            )

    def _ask(self, model: Model, question: Question) -> Answer:
        try:
            answer = model.ask(question)
        except PartialAnswerError as error:
            self._spent += model.estimate(question) if error.usd is None else error.usd
            raise
        self._spent += answer.usd
        self._answered = answer.model
        return answer

    def _put(
        self,
        merged: bytes,
        document: DocumentTask,
        kind: Literal["CONFLICT", "UNVERIFIED"],
        quote: str,
        text: str,
    ) -> bytes:
        """The document with a mark behind the line that was quoted, once."""
        said = self._say(text)
        self._marks.append(self._mark(document, kind, said))
        mark = conflict_mark(said) if kind == "CONFLICT" else unverified_mark(said)
        return add_mark(merged, quote, mark)

    def _mark(self, document: DocumentTask, kind: str, text: str) -> str:
        return f"{document.path}: {kind}: {self._say(text)}"

    def _say(self, text: str) -> str:
        """A text in one line that may be shown and logged."""
        hidden = self._withholding.hide(text.encode("utf-8", "replace")).decode("utf-8", "replace")
        words = " ".join(self._withholding.for_people(hidden).split())
        return "".join(char for char in words if char.isprintable())[:MAX_SAID]

    def _hide(self, document: DocumentTask) -> DocumentTask:
        hide = self._withholding.hide
        return DocumentTask(
            document.path,
            None if document.current is None else hide(document.current),
            tuple(
                Version(one.machine, hide(one.data), None if one.base is None else hide(one.base))
                for one in document.versions
            ),
        )


def _way(document: DocumentTask, model: Model | None) -> str:
    if _copied(document) is not None:
        return COPIED
    return BY_RULE if model is None or not _is_askable(document) else BY_MODEL


def _copied(document: DocumentTask) -> bytes | None:
    """The document that needs no merge: all have the same, or one has all that the others say."""
    first, *others = document.versions
    if (
        document.path != SETTINGS
        and all(one.data == first.data for one in others)
        and (document.current is None or any(one.base == document.current for one in document.versions))
    ):
        return first.data
    merged = _merge_by_rule(document)
    return merged.data if not merged.contradictions and merged.data in _inputs(document) else None


@lru_cache(maxsize=2)
def _merge_by_rule(document: DocumentTask) -> MergedDocument:
    """Asked for again and again while one document is made, as it is and with its secrets hidden."""
    if document.path == SETTINGS:
        return merge_settings(document.current, document.versions)
    return merge_markdown(document.current, document.versions)


def _is_askable(document: DocumentTask) -> bool:
    """Whether a model is given such a document: text, and not too much of it."""
    inputs = _inputs(document)
    return (
        document.path != SETTINGS
        and all(len(data) <= MAX_ASKED and _is_text(data) for data in inputs)
        and _merge_question(document, b"").max_tokens <= MAX_ANSWER_TOKENS
    )


def _most(document: DocumentTask, model: Model) -> float:
    """Dollars that merging a document with its critic costs at the most, if a model is asked at all."""
    if _copied(document) is not None or not _is_askable(document):
        return 0.0
    materials = _materials(document)
    longest = "".join(material.text for material in materials)
    return model.estimate(_merge_question(document, b"")) + model.estimate(
        critic_question(document.path, materials, longest, b"")
    )


def _merge_question(document: DocumentTask, salt: bytes) -> Question:
    """Asks for a merge; one by rule tells how long it can get, because that keeps all wordings."""
    size = len(_merge_by_rule(document).data)
    return merge_question(document.path, _materials(document), size, salt)


def _materials(document: DocumentTask) -> list[Material]:
    shared = [] if document.current is None else [Material("the shared version", document.current.decode())]
    return shared + [_material(one, document.current) for one in document.versions]


def _material(version: Version, shared: bytes | None) -> Material:
    what = f"the version of {version.machine}"
    if shared is not None:
        what += f" (made from {'the shared version' if version.base == shared else 'something else'})"
    return Material(what, version.data.decode(), removed_sections(version.base, version.data))


def _document_of(value: Mapping[str, Json], document: DocumentTask) -> bytes:
    """The document in an answer, as bytes. Raises where it cannot be one made of those it is made of."""
    inputs = _inputs(document)
    text = cast("str", value["document"])
    data = text.encode("utf-8", "replace")
    if not text.strip():
        raise PartialAnswerError(f"the merge of {document.path} is empty", AGAIN)
    if len(data) > 2 * sum(map(len, inputs)) + SPARE:
        raise PartialAnswerError(f"the merge of {document.path} is far longer than all it was made of", AGAIN)
    return data if data.endswith(b"\n") or not any(one.endswith(b"\n") for one in inputs) else data + b"\n"


def _inputs(document: DocumentTask) -> list[bytes]:
    current = [] if document.current is None else [document.current]
    return current + [one.data for one in document.versions]


def _texts(task: ScopeTask) -> list[bytes]:
    return [
        data
        for document in task.documents
        for data in (document.current, *(data for one in document.versions for data in (one.data, one.base)))
        if data is not None
    ]


def _is_text(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def _tally(ways: Sequence[str]) -> str:
    """`2 documents merged by a model, 1 document copied`."""
    return ", ".join(f"{plural(number, 'document')} {way}" for way, number in Counter(ways).items())
