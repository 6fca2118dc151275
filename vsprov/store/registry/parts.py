"""Images in registries: what a reference resolves to, and its layers, downloaded and verified.

https://github.com/opencontainers/distribution-spec. `session` is imported on demand, as it is slow.
"""

from __future__ import annotations

import hashlib
import threading
from typing import TYPE_CHECKING

from vsprov.model.values import digests
from vsprov.model.values.image_reference import Reference
from vsprov.store.disk.progress import Progress
from vsprov.store.registry import download, oci_documents
from vsprov.store.registry.oci_documents import Descriptor, Found

if TYPE_CHECKING:
    from vsprov.store.registry.access import Access
    from vsprov.store.registry.session import Session

ACCEPT = ", ".join((*oci_documents.MANIFESTS, *oci_documents.INDEXES))


class RegistryParts:
    """The parts of an image in a registry.

    `insecure` allows an untrusted certificate, and plain HTTP. Blobs are downloaded to the directory
    `downloads`; the caller removes them when they are no longer needed.
    """

    def __init__(self, reference: Reference, downloads: str, insecure: bool = False) -> None:
        self._reference = reference
        self._downloads = downloads
        self._insecure = insecure
        self._lock = threading.Lock()
        self._access: Access | None = None
        self._own = threading.local()  # requests.Session is not safe to share between threads

    def find(self) -> Found:
        """What the reference resolves to now, by its digest if it has one, which is then verified.

        Raises ImageError within seconds if the registry does not answer, does not have the image, denies
        access, or sends something else.
        """
        wanted = self._reference
        label = str(wanted)
        data = self._session().document(f"manifests/{_named(wanted)}", ACCEPT)
        if wanted.digest:
            oci_documents.check_sum(data, wanted.digest, label)
        return oci_documents.follow(data, hashlib.sha256(data).hexdigest(), self._fetch, label)

    def layer(self, descriptor: Descriptor, progress: Progress) -> str:
        """The path of the layer after the download; see `download.fetch` about incomplete ones."""
        session = self._session()
        return download.fetch(
            descriptor,
            self._downloads,
            lambda offset: session.blob(descriptor.digest, offset),
            progress,
            str(self._reference),
        )

    def _fetch(self, descriptor: Descriptor) -> bytes:
        kind = "blobs" if descriptor.media_type in oci_documents.CONFIGS else "manifests"
        return self._session().document(f"{kind}/{digests.full(descriptor.digest)}", descriptor.media_type)

    def _session(self) -> Session:
        from vsprov.store.registry import session  # slow to import: 100 ms

        found: Session | None = getattr(self._own, "session", None)
        if found is None:
            with self._lock:
                if self._access is None:
                    self._access = session.connect(self._reference, self._insecure)
            found = self._own.session = session.Session(self._access)
        return found


def _named(reference: Reference) -> str:
    return digests.full(reference.digest) or reference.tag
