"""Documents as YAML that readers of YAML 1.1 and 1.2 interpret in the same way."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import yaml

from vsprov.manifest.syntax.scalar import ScalarError, plain

# Texts that some readers of YAML 1.1 interpret as a boolean or a number in base 60.
_MISREAD = re.compile(r"[yYnN]|[-+]?[0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?")
# Characters that are not allowed or are line breaks in a block scalar.
_UNUSUAL = re.compile("[^\n -~\xa0-\u2027\u202a-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]")
_STRING = "tag:yaml.org,2002:str"


class _Dumper(yaml.CSafeDumper if yaml.__with_libyaml__ else yaml.SafeDumper):  # type: ignore[misc]
    def ignore_aliases(self, data: Any) -> bool:
        return True


def _string(dumper: Any, text: str) -> Any:
    style = '"'
    if not _UNUSUAL.search(text):
        style = "|" if "\n" in text else "" if _is_plain(dumper, text) else '"'
    return dumper.represent_scalar(_STRING, text, style=style or None)


def _is_plain(dumper: Any, text: str) -> bool:
    """Whether readers of YAML 1.1 and 1.2 interpret the unquoted text as the string itself."""
    if _MISREAD.fullmatch(text) or dumper.resolve(yaml.ScalarNode, text, (True, False)) != _STRING:
        return False
    try:
        return plain(text) == text
    except ScalarError:
        return False


_Dumper.add_representer(str, _string)


def to_yaml(documents: Iterable[Any]) -> str:
    """The documents in block style, with keys in their original order."""
    return "".join(
        ("---\n" if i else "")
        + yaml.dump(document, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=10**6)
        for i, document in enumerate(documents)
    )
