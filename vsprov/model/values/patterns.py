"""Pieces of JSON Schema that several keys share.

Editors and `vsprov validate` print `patternErrorMessage` after a value that does not match the pattern.
"""

from __future__ import annotations

from typing import Any, Final

Schema = dict[str, Any]

_PART = "[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_LABEL = "[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?"

NAME_PATTERN = r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$"
NAME: Final[Schema] = {
    "type": "string",
    "pattern": NAME_PATTERN,
    "patternErrorMessage": "is not a valid name: up to 63 of a-z, 0-9 and -, a letter or digit at both ends",
}
HOSTNAME: Final[Schema] = {
    "maxLength": 64,  # the kernel's __NEW_UTS_LEN
    "pattern": rf"^{_PART}(\.{_PART})*$",
    "patternErrorMessage": "is not a valid host name: up to 63 letters, digits and - between dots",
}
ABSOLUTE: Final[Schema] = {
    "type": "string",
    "maxLength": 4095,  # PATH_MAX
    "pattern": r"^/[^\u0000]*$",
    "patternErrorMessage": "is not an absolute path",
}
PATH: Final[Schema] = {
    "maxLength": 4095,
    "pattern": r"^(?![a-z][a-z0-9+.-]*://)[^\u0000]+$",  # a URL would be one below the manifest
    "patternErrorMessage": "is not a path",
}
PATH_OR_NAME: Final[Schema] = {
    "maxLength": 4095,
    "pattern": rf"^/[^\u0000]*$|{NAME_PATTERN}",
    "patternErrorMessage": "is not an absolute path, or the name of a volume",
}
TEXT: Final[Schema] = {
    "type": "string",
    "pattern": r"^[^\u0000]*$",
    "patternErrorMessage": "contains a NUL character",
}
COMMAND_LINE: Final[Schema] = {
    "pattern": r"^[^\u0000]*[^\u0000-\u0020][^\u0000]*$",
    "patternErrorMessage": "is not a command",
}
VARIABLES: Final[Schema] = {
    "propertyNames": {
        "pattern": r"^[^=\u0000]+$",
        "patternErrorMessage": "is not a valid variable name: at least one character, no = and no NUL",
    },
    "additionalProperties": TEXT,
}
# Users (UID, UID:GID or names) and signals (name or number).
NAME_OR_NUMBER: Final[Schema] = {"type": ["string", "integer"]}
_LABEL_NAME: Final[Schema] = {
    "pattern": rf"^([a-z0-9]([a-z0-9.-]{{0,251}}[a-z0-9])?/)?{_LABEL}$",
    "patternErrorMessage": "is not a valid label name: up to 63 letters and digits, with . _ - in between",
}
LABELS: Final[Schema] = {
    "maxProperties": 64,
    "propertyNames": _LABEL_NAME,
    "additionalProperties": {
        "type": "string",
        "pattern": rf"^({_LABEL})?$",
        "patternErrorMessage": "is not a valid label: up to 63 letters and digits, with . _ - in between",
    },
    "default": {},
}
ANNOTATIONS: Final[Schema] = {
    "maxProperties": 64,
    "propertyNames": _LABEL_NAME,
    "additionalProperties": {"type": "string", "maxLength": 4096},
    "default": {},
}
PACKAGE: Final[Schema] = {
    "type": "string",
    "pattern": "^[a-z0-9][a-z0-9+.-]{0,127}(:[a-z0-9-]+)?$",
    "patternErrorMessage": "is not a valid package name",
}


def file_mode(example: str) -> Schema:
    """A file mode in octal; the error message suggests `example`."""
    return {
        "pattern": "^[0-7]{3,4}$",
        "patternErrorMessage": f'is not a file mode; write "{example}" or "755"',
    }
