"""A manifest as its checks see it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TypeVar

from msgspec import Struct

from vsprov.manifest.resolve import Item
from vsprov.model.objects import Spec

T = TypeVar("T", bound=Spec)


class ManifestView(Struct, frozen=True):
    """A manifest during its checks. `images`: names of images in the store, None if unknown."""

    items: Sequence[Item]
    by_address: Mapping[str, Item]
    images: frozenset[str] | None

    def names(self, kind: str) -> set[str]:
        """The names of objects of a kind, including those with errors."""
        return {address.partition("/")[2] for address in self.by_address if address.startswith(f"{kind}/")}

    def spec(self, kind: type[T], name: str) -> T | None:
        """The spec of the object with this name; None if it is missing or has errors."""
        item = self.by_address.get(f"{kind.__name__}/{name}")
        spec = item.object.spec if item is not None and item.object is not None else None
        return spec if isinstance(spec, kind) else None

    def all(self, kind: type[T]) -> Iterator[tuple[Item, T]]:
        """The objects of a kind, except those with errors."""
        for item in self.items:
            if item.object is not None and isinstance(item.object.spec, kind):
                yield item, item.object.spec
