"""What is withheld stands in nothing that was hidden, and comes back exactly."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from convergenced.canon.secrets import find_secrets
from convergenced.knowledge.withholding import SHOWN, Withholding
from tests.labelled import negatives, positives

SALT = b"salt"


def of(*texts: bytes) -> Withholding:
    return Withholding(texts, (), SALT)


def found_in(text: bytes) -> list[bytes]:
    return [text[one.start : one.end] for one in find_secrets(text, SALT)]


def test_every_kind_of_secret_is_withheld_and_comes_back() -> None:
    for example in positives(1, 1):
        withholding = of(example.data)
        hidden = withholding.hide(example.data)
        assert all(secret not in hidden for secret in found_in(example.data)), example
        assert withholding.restore(hidden) == example.data, example


def test_what_is_none_stays_as_it_is() -> None:
    for example in negatives(1, 1):
        if not found_in(example.data):
            assert of(example.data).hide(example.data) == example.data


@given(st.lists(st.sampled_from([e.data for e in positives(2, 1)]) | st.binary(max_size=60), max_size=4))
def test_hiding_is_undone_exactly(texts: list[bytes]) -> None:
    withholding = of(*texts)
    whole = b"\n".join(texts)
    hidden = withholding.hide(whole)
    assert withholding.restore(hidden) == whole
    assert not any(secret in hidden for text in texts for secret in found_in(text))


def test_one_within_another_and_one_like_a_placeholder() -> None:
    texts = [b"password = withheld-1-zq8\n", b"password = withheld-1-zq8-and-more7\n"]
    withholding = of(*texts)
    assert len(withholding) == 2
    for text in texts:
        hidden = withholding.hide(text)
        assert b"zq8" not in hidden
        assert withholding.restore(hidden) == text


def test_placeholders_differ_from_what_stands_in_the_texts() -> None:
    text, secret = b"password = correct7horse8\n", b"correct7horse8"
    placeholder = of(text).hide(secret)
    again = of(text, placeholder)
    assert again.hide(secret) not in (secret, placeholder)
    assert again.restore(placeholder) == placeholder


def test_kept_means_each_at_least_once_and_none_more_often_than_asked() -> None:
    text = b"password = correct7horse8\n"
    withholding = of(text)
    hidden = withholding.hide(text)
    assert withholding.is_kept(hidden, [hidden])
    assert withholding.is_kept(hidden + hidden, [hidden, hidden])
    assert not withholding.is_kept(hidden + hidden, [hidden])
    assert not withholding.is_kept(b"", [hidden])
    assert not withholding.is_kept(hidden, [b"something else"])


def test_people_are_told_that_something_was_withheld() -> None:
    text = b"password = correct7horse8\n"
    withholding = of(text)
    assert withholding.for_people(withholding.hide(text).decode()) == f"password = {SHOWN}\n"
