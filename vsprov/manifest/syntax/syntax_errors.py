"""Explanations of the syntax errors of PyYAML and libyaml."""

from __future__ import annotations

import yaml

MAX_DEPTH = 32
"""Levels of nested collections, including those behind aliases."""
TOO_DEEP = f"more than {MAX_DEPTH} levels of nested maps and lists"

_INDENT = "check the indentation of this line and the previous one; quote a string that contains ': ' or ' #'"
_EXPLAINED = {
    "exceeded maximum nesting depth": (TOO_DEEP, ""),  # raised by PyYAML 6.0.4, which reads ahead
    "mapping values are not allowed in this context": ("unexpected ':'", _INDENT),
    "block sequence entries are not allowed in this context": ("unexpected '- '", _INDENT),
    "could not find expected ':'": ("key without ':'", _INDENT),
    "did not find expected key": ("expected a key or the end of the map", _INDENT),
    "did not find expected '-' indicator": ("expected '- ' or the end of the list", _INDENT),
    "did not find expected node content": (
        "expected a value",
        "quote a string that starts with a bracket or comma",
    ),
    "did not find expected <document start>": ("expected the end of the document", _INDENT),
    "did not find expected ',' or ']'": ("expected ',' or ']'", ""),
    "did not find expected ',' or '}'": ("expected ',' or '}'", ""),
    "did not find expected alphabetic or numeric character": (
        "expected the name of an anchor or alias",
        "quote a string that starts with '*' or '&'",
    ),
    "did not find expected comment or line break": (
        "unexpected text on this line",
        "start the text on the next line",
    ),
    "found undefined tag handle": ("tags are not supported", "quote a string that starts with '!'"),
    "found unknown escape character": (
        "unknown escape sequence",
        "write a backslash in double quotes as \\\\",
    ),
    "found invalid Unicode character escape code": ("invalid escape sequence", "write the character itself"),
    "found incompatible YAML document": ("unsupported version of YAML", "remove the %YAML line"),
}


def explain(error: yaml.MarkedYAMLError, text: str) -> tuple[str, int, str]:
    """Message, index in the text and hint for a syntax error."""
    reported = error.problem or "not valid YAML"
    problem = min(error.problem_mark.index, len(text)) if error.problem_mark else len(text)
    context = error.context_mark.index if error.context_mark else problem
    if "quoted scalar" in (error.context or "") and reported.startswith("found unexpected"):
        return "unclosed quote", context, ""
    if "flow" in (error.context or "") and (text.startswith("---", problem) or not text[problem:].strip()):
        return "unclosed bracket", context, ""
    cannot_start = reported == "found character that cannot start any token"
    if "tab character" in reported or (cannot_start and text.startswith("\t", problem)):
        return "tab used for indentation", problem, "use spaces"
    if cannot_start:
        return f"{text[problem : problem + 1]!r} cannot start a value", problem, "quote the value"
    message, hint = _EXPLAINED.get(reported, (reported, ""))
    return message, context if reported == "could not find expected ':'" else problem, hint
