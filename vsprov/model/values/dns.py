"""Domains, name servers and options of resolv.conf(5)."""

from __future__ import annotations

from typing import Any, Final

from vsprov.model.values.addresses import ADDRESS
from vsprov.model.values.patterns import HOSTNAME, Schema


def parse_domain(raw: Any) -> str:
    """A domain in lower case, without a dot at the end."""
    return str(raw).lower().removesuffix(".")


NAMESERVERS: Final[Schema] = {"items": ADDRESS, "maxItems": 3}  # MAXNS of resolv.conf(5)
DOMAIN: Final[Schema] = {
    "maxLength": 253,
    "pattern": HOSTNAME["pattern"].replace(")*$", r")*\.?$"),
    "patternErrorMessage": "is not a valid domain: up to 63 letters, digits and - between dots",
}
DOMAINS: Final[Schema] = {"items": {"type": "string", **DOMAIN}, "maxItems": 32}
OPTIONS: Final[Schema] = {
    "items": {
        "type": "string",
        "pattern": "^[a-z][a-z0-9-]{0,30}(:[0-9]{1,5})?$",
        "patternErrorMessage": "is not an option of resolv.conf(5), such as ndots:2",
    },
    "maxItems": 32,
}
