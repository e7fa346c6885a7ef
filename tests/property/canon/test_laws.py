"""The laws of the canonical form, on bytes that nobody would write."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convergenced.canon import rewrite as module
from convergenced.canon.anchors import layers
from convergenced.canon.exact import Exact
from convergenced.canon.fast import Fast
from convergenced.canon.rewrite import Rewriter
from convergenced.model import Anchors, Content
from tests.property.canon import machines, strategies

anyone = st.sampled_from(machines.ALL)
EVERY = (*machines.ALL, *machines.ODD)
anyone_odd = st.sampled_from(EVERY)
authors = st.sampled_from([own for own in machines.ALL if own.home not in (None, "/")])


@given(anyone_odd, st.one_of(st.binary(), strategies.json_bytes(EVERY)))
def test_any_json_comes_back_from_its_canonical_form(own: Anchors, data: bytes) -> None:
    rewriter = Rewriter(own)
    assert rewriter.localize(rewriter.canonicalize(data, Content.JSON), Content.JSON) == data
    assert rewriter.is_reversible(data, Content.JSON)


@given(anyone_odd, st.one_of(st.binary(), strategies.text_bytes(EVERY)))
def test_any_text_comes_back_from_its_canonical_form(own: Anchors, data: bytes) -> None:
    rewriter = Rewriter(own)
    assert rewriter.localize(rewriter.canonicalize(data, Content.TEXT), Content.TEXT) == data


@given(authors, anyone, st.data())
def test_canonical_json_of_one_machine_comes_back_from_another(
    a: Anchors, b: Anchors, data: st.DataObject
) -> None:
    local = data.draw(strategies.json_bytes([a, b, machines.ANN], depth=0))
    canonical = Rewriter(a).canonicalize(local, Content.JSON)
    other = Rewriter(b)
    assert other.canonicalize(other.localize(canonical, Content.JSON), Content.JSON) == canonical


@given(st.data())
def test_canonical_text_comes_back_from_a_machine_whose_anchors_it_does_not_hold(data: st.DataObject) -> None:
    canonical = Rewriter(machines.ANN).canonicalize(
        data.draw(strategies.foreign_text(machines.ANN, machines.MAC)), Content.TEXT
    )
    other = Rewriter(machines.MAC)
    assert other.canonicalize(other.localize(canonical, Content.TEXT), Content.TEXT) == canonical


@given(anyone_odd, strategies.json_bytes(EVERY))
def test_the_fast_way_never_answers_otherwise_than_the_exact_one(own: Anchors, data: bytes) -> None:
    ordered = layers(own)
    fast, exact = Fast(ordered), Exact(ordered)
    if fast.tame:
        assert fast.canonicalize(data) in (None, exact.canonicalize(data))
        assert fast.localize(data) in (None, exact.localize(data))


@pytest.mark.parametrize("content", Content)
@given(anyone_odd, st.data())
def test_a_stream_gives_the_same_as_the_whole(content: Content, own: Anchors, data: st.DataObject) -> None:
    bytes_of = strategies.text_bytes if content is Content.TEXT else strategies.json_bytes
    whole = data.draw(bytes_of([own, machines.ANN]))
    chunks = data.draw(strategies.divided(whole))
    rewriter = Rewriter(own)
    canonical, local = rewriter.canonicalize(whole, content), rewriter.localize(whole, content)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "BUFFER", 8)
        patch.setattr(module, "PIECE", 3)
        module._forms.cache_clear()
        rewriter = Rewriter(own)
        assert b"".join(rewriter.canonicalize_chunks(iter(chunks), content)) == canonical
        assert b"".join(rewriter.localize_chunks(iter(chunks), content)) == local
        assert rewriter.canonicalize(whole, content) == canonical
        assert rewriter.localize(whole, content) == local
    module._forms.cache_clear()
