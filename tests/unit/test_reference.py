"""Names of images: what people write, and the name in full."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from vsprov.model.values.image_reference import Reference, parse_reference
from vsprov.model.values.units import UnitError

HEX = "0123456789abcdef" * 4


@pytest.mark.parametrize(
    ("text", "full", "host"),
    [
        ("debian", "docker.io/library/debian:latest", "registry-1.docker.io"),
        ("debian:12", "docker.io/library/debian:12", "registry-1.docker.io"),
        ("grafana/loki:2.9", "docker.io/grafana/loki:2.9", "registry-1.docker.io"),
        ("docker.io/debian", "docker.io/library/debian:latest", "registry-1.docker.io"),
        ("index.docker.io/library/debian", "docker.io/library/debian:latest", "registry-1.docker.io"),
        ("localhost/app", "localhost/app:latest", "localhost"),
        ("local/app", "docker.io/local/app:latest", "registry-1.docker.io"),
        ("localhost:5000/app", "localhost:5000/app:latest", "localhost:5000"),
        ("Quay.io/a/b/c:v1", "quay.io/a/b/c:v1", "quay.io"),
        ("[::1]:5000/app:1", "[::1]:5000/app:1", "[::1]:5000"),
        ("quay.io/a__b/c---d.e_f:V_1.x-y", "quay.io/a__b/c---d.e_f:V_1.x-y", "quay.io"),
        (f"quay.io/app@sha256:{HEX}", f"quay.io/app@sha256:{HEX}", "quay.io"),
        (f"quay.io:443/app:1@sha256:{HEX}", f"quay.io:443/app:1@sha256:{HEX}", "quay.io:443"),
    ],
)
def test_a_name_is_read_as_docker_reads_it(text: str, full: str, host: str) -> None:
    reference = parse_reference(text)
    assert (str(reference), reference.host) == (full, host)
    assert parse_reference(full) == reference


def test_the_parts_of_a_name_are_told_apart() -> None:
    read = parse_reference(f"quay.io:8443/team/app:1.2@sha256:{HEX}")
    assert read == Reference("quay.io:8443", "team/app", "1.2", HEX)
    assert read.name == "quay.io:8443/team/app"


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("", "write registry/repository:tag"),
        (None, "write registry/repository:tag"),
        (12, "write registry/repository:tag"),
        ("docker://debian", "omit docker://"),
        ("https://quay.io/app", "omit https://"),
        ("quay.io/App", "repository names are in lower case: app"),
        ("debian:", "tags have up to 128 letters"),
        ("debian:-x", "tags have up to 128 letters"),
        ("debian:" + "x" * 129, "tags have up to 128 letters"),
        ("quay.io/", "write registry/repository:tag"),
        ("quay.io//app", "write registry/repository:tag"),
        ("quay.io/../app", "write registry/repository:tag"),
        ("quay.io:0/app", "write registry/repository:tag"),
        ("quay.io:65536/app", "write registry/repository:tag"),
        ("-quay.io/app", "write registry/repository:tag"),
        ("user:pass@quay.io/app", "write @sha256:"),
        ("quay.io/app@", "write @sha256:"),
        ("quay.io/app@sha512:" + HEX * 2, "write @sha256:"),
        ("quay.io/app@sha256:" + HEX.upper(), "write 64 hexadecimal digits"),
        ("quay.io/app@sha256:" + HEX + "\n", "write registry/repository:tag"),
        ("quay.io/app:1\n", "write registry/repository:tag"),
        ("débian", "write registry/repository:tag"),
        ("quay.io/" + "a/" * 130 + "a", ""),
        (HEX, "write name@sha256:…"),
    ],
)
def test_what_is_no_name_is_refused_with_the_right_spelling(text: object, hint: str) -> None:
    with pytest.raises(UnitError) as caught:
        parse_reference(text)
    assert caught.value.hint.startswith(hint)


@given(st.text(alphabet="aA0.:/@-_[]é\n sha256", max_size=80) | st.text())
@example("a" * 100_000)
@example("a-" * 250 + "!")
@example("A/0")
def test_whatever_is_read_is_read_again_from_its_full_name(text: str) -> None:
    try:
        read = parse_reference(text)
    except UnitError:
        return
    assert parse_reference(str(read)) == read
