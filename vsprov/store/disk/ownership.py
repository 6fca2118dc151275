"""Whether what is on disk belongs to an instance."""

from __future__ import annotations

from vsprov.errors import ConflictError
from vsprov.store.disk import durable, marks


def refuse_foreign(path: str, instance: str, address: str) -> None:
    """ConflictError if what an object (`address`) has at `path` belongs to another instance, or to none.

    Raises FileNotFoundError if `path` does not exist.
    """
    try:
        owner = marks.read_owner(path)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise durable.failed(path, "read its owner mark", error) from error
    if owner is None or owner.instance != instance:
        whose = f"belongs to {owner}" if owner else "has no owner mark"
        kind = address.partition("/")[0].lower()
        raise ConflictError(
            f"{address}: {path} {whose}: left untouched", hint=f"move it away, or rename the {kind}"
        )


def owned(path: str, instance: str, address: str) -> str:
    """The path of what an object has, which belongs to this instance.

    ConflictError if it belongs to another one, or to none; FailedError if it does not exist.
    """
    try:
        refuse_foreign(path, instance, address)
    except FileNotFoundError as error:
        raise durable.failed(path, "read its owner mark", error) from error
    return path
