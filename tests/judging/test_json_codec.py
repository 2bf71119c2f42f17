"""orjson where it can, Python's json where it must: the same values either way."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from em.judging import json_codec

ANY_TEXT = st.text(st.characters())  # lone surrogates too
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | ANY_TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(ANY_TEXT, inner, max_size=4),
    max_leaves=12,
)


@given(VALUES)
def test_what_is_written_is_what_is_read(value):
    raw = json_codec.dumps(value)
    assert json_codec.loads(raw) == value == json.loads(raw)
    assert json_codec.loads(json.dumps(value)) == value


def test_what_orjson_refuses_is_read_as_python_does():
    assert json_codec.loads(b'["\\ud800", -Infinity, 1e400]') == ["\ud800", -math.inf, math.inf]
    assert math.isnan(json_codec.loads("NaN"))
    for wrong in (b"", b"{", b"\xff", b"'a'"):
        with pytest.raises(ValueError, match=r"."):
            json_codec.loads(wrong)
    with pytest.raises(RecursionError):
        json_codec.loads("[" * 100_000)
