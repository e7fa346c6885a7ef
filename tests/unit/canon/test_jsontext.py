"""JSON text that is edited in place: only the edit is another text."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from convergenced.canon import jsontext
from convergenced.errors import UsageError
from tests.unit.canon.written import SPACE, written

WORDS = st.text(max_size=6)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 10**20) | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.lists(st.tuples(WORDS, inner), max_size=3).map(tuple),
    max_leaves=6,
)
CONTAINERS = st.lists(VALUES, max_size=4) | st.lists(st.tuples(WORDS, VALUES), max_size=4).map(tuple)
PLAIN = st.recursive(
    st.none() | st.integers() | WORDS,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(WORDS, inner, max_size=2),
    max_leaves=4,
)


@st.composite
def texts(draw: st.DrawFn) -> str:
    """An object or array with blanks around it."""
    return draw(SPACE) + draw(written(draw(CONTAINERS))) + draw(SPACE)


@given(st.lists(st.tuples(WORDS, VALUES), max_size=4).map(tuple).flatmap(written))
def test_the_text_is_seen_as_a_parser_sees_it(text: str) -> None:
    found = jsontext.items(text, jsontext.first_value(text))
    assert {str(one.key): jsontext.value_at(text, one.value) for one in found} == json.loads(text)


@given(texts(), PLAIN, WORDS)
def test_cutting_undoes_appending(text: str, value: Any, key: str) -> None:
    at = jsontext.first_value(text)
    grown = jsontext.append(text, at, value, key if text[at] == "{" else None)
    before, after = jsontext.items(text, at), jsontext.items(grown, at)
    assert jsontext.value_at(grown, after[-1].value) == value
    assert after[-1].key == (key if text[at] == "{" else None)
    assert [text[item.start : item.end] for item in before] == [
        grown[item.start : item.end] for item in after[:-1]
    ]
    assert jsontext.cut(grown, at, len(before)) == text


@given(texts(), st.lists(PLAIN, max_size=4))
def test_extending_is_appending_each(text: str, values: list[Any]) -> None:
    at = jsontext.first_value(text)
    assume(text[at] == "[")
    one_by_one = text
    for value in values:
        one_by_one = jsontext.append(one_by_one, at, value)
    extended = jsontext.extend(text, at, values)
    assert extended.split() == one_by_one.split()
    count = len(jsontext.items(text, at))
    assert jsontext.cut_all(extended, at, range(count, count + len(values))) == text


@given(texts(), st.sets(st.integers(0, 3)))
def test_cutting_several_is_cutting_each(text: str, indexes: set[int]) -> None:
    at = jsontext.first_value(text)
    indexes &= set(range(len(jsontext.items(text, at))))
    one_by_one = text
    for index in sorted(indexes, reverse=True):
        one_by_one = jsontext.cut(one_by_one, at, index)
    assert jsontext.cut_all(text, at, indexes) == one_by_one


@given(texts(), PLAIN, st.integers(0, 3))
def test_replacing_touches_no_other_item(text: str, value: Any, index: int) -> None:
    at = jsontext.first_value(text)
    before = jsontext.items(text, at)
    assume(index < len(before))
    changed = jsontext.replace(text, before[index], value)
    after = jsontext.items(changed, at)
    assert jsontext.value_at(changed, after[index].value) == value
    assert changed[: after[index].value] == text[: before[index].value]
    assert changed[after[index].end :] == text[before[index].end :]


def test_a_value_is_spelled_as_its_surroundings_are() -> None:
    text = '{\r\n\t"a": 1,\r\n\t"é": {"x": 1}\r\n}'
    item = jsontext.items(text, 0)[1]
    assert jsontext.replace(text, item, {"y": [2]}) == (
        '{\r\n\t"a": 1,\r\n\t"é": {\r\n\t\t"y": [\r\n\t\t\t2\r\n\t\t]\r\n\t}\r\n}'
    )
    assert jsontext.replace('{"a": 1}', jsontext.items('{"a": 1}', 0)[0], {"y": 2}) == '{"a": {"y": 2}}'
    assert jsontext.append('{"a": 1}', 0, "ß", "é") == '{"a": 1, "é": "ß"}'


@pytest.mark.parametrize("text", ["", "[", '{"a": NaN}', "[]", '{"a": 1} {}'])
def test_what_is_no_object_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="nothing was changed"):
        jsontext.check_object(text, "settings.json")
