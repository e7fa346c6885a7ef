"""What the package makes of bytes decodes to what the definition makes of the decoded strings."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from convergenced.canon.rewrite import Rewriter
from convergenced.model import Anchors, Content
from tests.property.canon import machines, reference, strategies

anyone = st.sampled_from([*machines.TAME, machines.HOMELESS, machines.QUOTED])


@given(anyone, st.data())
def test_values_and_keys_decode_to_what_the_definition_says(own: Anchors, data: st.DataObject) -> None:
    strings = st.lists(strategies.spelled_strings(own), min_size=4, max_size=4)
    (one, one_raw), (two, two_raw), (three, three_raw), (four, four_raw) = data.draw(strings)
    line = b'{%s:[%s,1,null,true],"k":{"type":"thinking","thinking":%s,"signature":"s","x":%s}}\n' % (
        one_raw,
        two_raw,
        three_raw,
        four_raw,
    )
    canonical = Rewriter(own).canonicalize(line, Content.JSON)
    expected = reference.canonical_value(reference.parse(line), own)
    assert reference.parse(canonical) == expected
    assert [one, two, three, four]  # what was drawn shows in a failure
    assert three_raw in canonical
