"""The forms of a digest."""

from __future__ import annotations

from vsprov.model.values import digests

HEX = "0123456789abcdef" * 4


def test_both_forms_are_the_same_whatever_they_are_made_from() -> None:
    for given in (HEX, f"sha256:{HEX}"):
        assert digests.full(given) == f"sha256:{HEX}"
        assert digests.short(given) == "0123456789ab"
        assert digests.hex_digits(given) == HEX


def test_no_digest_stays_none() -> None:
    assert (digests.full(""), digests.short("")) == ("", "")
