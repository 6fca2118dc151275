"""Messages between vsprov and its guest programs arrive whole, however the stream is cut."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from vsprov.guest import wire

TEXT = st.text(st.characters(codec=None), max_size=20)  # surrogates too: paths may hold any bytes
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.binary(max_size=20) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=10,
)
MESSAGES = st.lists(st.dictionaries(TEXT, VALUES, max_size=4), max_size=5)


@given(MESSAGES, st.integers(min_value=1, max_value=40))
def test_messages_arrive_whole_and_in_order_however_the_stream_is_cut(messages: list[Any], size: int) -> None:
    stream = b"".join(wire.encode(message) for message in messages)
    buffer, arrived = bytearray(), []
    for start in range(0, len(stream), size):
        buffer += stream[start : start + size]
        arrived += wire.decode(buffer)
    assert arrived == messages
    assert not buffer


def test_what_is_not_complete_stays_in_the_buffer() -> None:
    event: Any = {"event": "running", "id": 7}
    whole = wire.encode(event)
    for cut in range(len(whole)):
        buffer = bytearray(whole + whole[:cut])
        assert wire.decode(buffer) == [event]
        assert buffer == whole[:cut]
        assert wire.decode(buffer) == []
