"""The messages of PyYAML and libyaml about broken YAML, in words that say what to do."""

from __future__ import annotations

import yaml

MAX_DEPTH = 32
"""Collections nested in one another, aliases followed."""
TOO_DEEP = f"more than {MAX_DEPTH} mappings and lists within each other"

_INDENT = "check the indentation of this line and the one before; a text that holds ': ' or ' #' needs quotes"
_EXPLAINED = {
    "exceeded maximum nesting depth": (TOO_DEEP, ""),  # PyYAML 6.0.4 looks that far ahead
    "mapping values are not allowed in this context": ("a ':' where no key can stand", _INDENT),
    "block sequence entries are not allowed in this context": ("a '- ' where no list can stand", _INDENT),
    "could not find expected ':'": ("a key without ':'", _INDENT),
    "did not find expected key": ("expected a key or the end of the mapping", _INDENT),
    "did not find expected '-' indicator": ("expected '- ' or the end of the list", _INDENT),
    "did not find expected node content": (
        "expected a value",
        "put a text that begins with a bracket or comma in quotes",
    ),
    "did not find expected <document start>": ("expected the end of the document", _INDENT),
    "did not find expected ',' or ']'": ("expected ',' or ']'", ""),
    "did not find expected ',' or '}'": ("expected ',' or '}'", ""),
    "did not find expected alphabetic or numeric character": (
        "expected the name of an anchor or alias",
        "quote a '*' or '&' that is meant as text",
    ),
    "did not find expected comment or line break": (
        "expected nothing more on this line",
        "the text begins on the next line",
    ),
    "found undefined tag handle": ("tags are not supported", "quote a '!' that is meant as text"),
    "found unknown escape character": ("no such escape", "a backslash within double quotes is written \\\\"),
    "found invalid Unicode character escape code": ("no such character", "write the character itself"),
    "found incompatible YAML document": ("not a version of YAML known here", "remove the %YAML line"),
}


def explain(error: yaml.MarkedYAMLError, text: str) -> tuple[str, int, str]:
    """Message, index in the text and hint for a syntax error."""
    said = error.problem or "not valid YAML"
    problem = min(error.problem_mark.index, len(text)) if error.problem_mark else len(text)
    context = error.context_mark.index if error.context_mark else problem
    if "quoted scalar" in (error.context or "") and said.startswith("found unexpected"):
        return "this quote is never closed", context, ""
    if "flow" in (error.context or "") and (text.startswith("---", problem) or not text[problem:].strip()):
        return "this bracket is never closed", context, ""
    cannot_start = said == "found character that cannot start any token"
    if "tab character" in said or (cannot_start and text.startswith("\t", problem)):
        return "a tab cannot indent", problem, "use spaces"
    if cannot_start:
        return f"{text[problem : problem + 1]!r} cannot begin a value", problem, "put the value in quotes"
    message, hint = _EXPLAINED.get(said, (said, ""))
    return message, context if said == "could not find expected ':'" else problem, hint
