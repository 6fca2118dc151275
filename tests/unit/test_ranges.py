"""Id ranges: which are free, which a server may have, and what contradicts them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from tests.unit.test_plan import IMAGE, server
from tests.unit.wishes import V2
from vsprov.errors import HostError
from vsprov.plan import range_problems, ranges
from vsprov.plan.builder import Wanted
from vsprov.plan.observed import Observed, ObservedServer, Parts
from vsprov.plan.ranges import BLOCK, END, FIRST_ID, RANGE, Entry, Ranges
from vsprov.plan.reconcile import reconcile
from vsprov.store import claims
from vsprov.store.instance import Instance


def first_free(host: Ranges, taken: list[int]) -> int | None:
    return next(ranges.free(host, taken), None)


def seen(name: str, base: int, **parts: object) -> ObservedServer:
    both = {"recorded": base, "upper": (base, base), "work": (base, base)}
    made = Parts(**{**both, **parts})  # type: ignore[arg-type]
    return ObservedServer(name, directory=True, id_base=base, parts=made, disk="{}")


def trouble(server: ObservedServer, host: Ranges, *others: ObservedServer) -> str:
    found = range_problems.problems({each.name: each for each in (server, *others)}, host).get(server.name)
    return found.message if found else ""


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Path, Path]]:
    """Files of subordinate ids of the test's own, and claims of its own."""
    both = (tmp_path / "subuid", tmp_path / "subgid")
    monkeypatch.setattr(claims, "SUBORDINATE", tuple(map(str, both)))
    monkeypatch.setattr(claims, "FOLDER", str(tmp_path / "claims"))
    yield both


def test_ranges_are_handed_out_from_the_lowest_that_is_free() -> None:
    assert first_free(Ranges(), []) == FIRST_ID
    assert first_free(Ranges(), [FIRST_ID, FIRST_ID + 2 * RANGE]) == FIRST_ID + RANGE
    assert first_free(Ranges(), [0, FIRST_ID + 1]) == FIRST_ID + 2 * RANGE


def test_other_users_subordinate_ids_are_left_to_them(files: tuple[Path, Path]) -> None:
    files[0].write_text(f"alice:100000:65536\nbob:{FIRST_ID + 5}:10\n# comment\n\nbroken:x:y\n:::\n")
    files[1].write_text(f"carol:{FIRST_ID + RANGE}:65536\n")
    assert first_free(claims.read(Instance()), []) == FIRST_ID + 2 * RANGE


def test_the_ids_given_to_vsprov_are_used_instead_and_no_others(files: tuple[Path, Path]) -> None:
    files[0].write_text("vsprov:1000001:131072\nvsprov:5000000:65535\nvsprov:9000000:65536\n")
    host = claims.read(Instance())
    assert first_free(host, []) == 1000001
    assert first_free(host, [1000001]) == 1000001 + RANGE
    assert first_free(host, [1000001, 1000001 + RANGE]) == 9000000
    assert first_free(host, [1000001, 1000001 + RANGE, 9000000]) is None
    assert ranges.exhausted(host).message == (
        "no range of 65536 ids is left among those of user vsprov in /etc/subuid"
    )


def test_ids_of_the_hosts_own_users_are_never_given_whatever_the_file_says(files: tuple[Path, Path]) -> None:
    files[0].write_text(f"vsprov:0:131072\nvsprov:{END}:{RANGE}\n")
    assert list(ranges.free(claims.read(Instance()), [])) == [RANGE]


def test_an_instance_ends_where_all_ids_end_and_then_goes_on_from_the_first() -> None:
    host = Ranges(start=END - 3 * RANGE)
    assert list(islice(ranges.free(host, []), 4)) == [
        END - 3 * RANGE, END - 2 * RANGE, END - RANGE, FIRST_ID,
    ]  # fmt: skip
    everything = [*range(FIRST_ID, END, RANGE)]
    assert first_free(host, everything) is None
    assert first_free(host, everything[:-1]) == everything[-1]
    assert (
        ranges.exhausted(host).message
        == "no range of 65536 ids is left among those from 524288 to 4294901759"
    )


def test_blocks_of_other_instances_are_passed_over() -> None:
    first = FIRST_ID // BLOCK
    host = Ranges(claimed={first: "other /srv/other", first + 1: "third /srv/third"})
    assert first_free(host, []) == (first + 2) * BLOCK
    assert list(ranges.blocks(BLOCK - 5)) == [0, 1]  # of entries that are not aligned
    assert first_free(Ranges(own=((BLOCK - 5, RANGE),), claimed={1: "other /srv"}), []) is None


def test_blocks_that_the_instance_has_come_first() -> None:
    third = FIRST_ID // BLOCK + 3
    host = Ranges(held=frozenset([third]))
    assert list(islice(ranges.free(host, [third * BLOCK + RANGE]), 17)) == [
        *(third * BLOCK + number * RANGE for number in range(16) if number != 1),
        FIRST_ID,
        FIRST_ID + RANGE,
    ]
    everything = list(ranges.free(host, []))
    assert len(everything) == len(set(everything)) == (END - FIRST_ID) // RANGE
    unaligned = Ranges(own=((BLOCK - 5, 20 * RANGE),), held=frozenset([0, 1]))
    assert sorted(ranges.free(unaligned, [])) == [BLOCK - 5 + number * RANGE for number in range(20)]


@settings(deadline=None)
@given(st.lists(st.integers(0, 2**32 - 1), max_size=20), st.integers(1, 30))
def test_ranges_never_overlap_what_is_taken_nor_each_other(foreign: list[int], count: int) -> None:
    host, taken = Ranges(start=Instance("vt-x").first_range), list(foreign)
    for _ in range(count):
        base = first_free(host, taken)
        assert base is not None and ranges.is_allowed(base, host)
        assert all(base + RANGE <= other or other + RANGE <= base for other in taken)
        taken.append(base)
    assert list(islice(ranges.free(host, foreign), count)) == taken[len(foreign) :]


def test_a_claim_is_kept_from_every_other_instance_until_it_is_released(files: tuple[Path, Path]) -> None:
    one, other = (Instance(name, f"/nonexistent/{name}") for name in ("vt-one", "vt-other"))
    assert claims.claim(one, FIRST_ID) and claims.claim(one, FIRST_ID)
    assert not claims.claim(other, FIRST_ID + 7 * RANGE)  # in the same block
    assert claims.read(one).held == {0} and claims.read(one).claimed == {}
    assert claims.read(other).held == frozenset()
    assert claims.read(other).claimed == {0: "vt-one /nonexistent/vt-one"}
    assert os.stat(claims.FOLDER).st_mode & 0o7777 == 0o700
    claims.release(other)
    assert claims.read(one).held == {0}
    claims.release(one)
    assert not os.path.exists(claims.FOLDER)
    assert claims.claim(other, FIRST_ID + 7 * RANGE)


def test_a_claim_follows_a_state_root_that_was_moved_but_is_not_shared_by_two(
    files: tuple[Path, Path], tmp_path: Path
) -> None:
    old, new = (Instance("vt-one", str(tmp_path / name)) for name in ("old", "new"))
    os.makedirs(old.servers)
    assert claims.claim(old, FIRST_ID) and not claims.claim(new, FIRST_ID)
    os.rename(old.root, new.root)
    assert claims.claim(new, FIRST_ID)
    os.symlink(new.root, old.root)
    assert claims.claim(new, FIRST_ID) and claims.claim(old, FIRST_ID)


def test_instances_that_claim_and_release_at_once_do_not_disturb_each_other(files: tuple[Path, Path]) -> None:
    def work(name: str) -> None:
        instance = Instance(name, f"/nonexistent/{name}")
        own = FIRST_ID + BLOCK * int(name[-1])
        for _ in range(1000):
            assert claims.claim(instance, own)
            assert claims.read(instance).held == set(ranges.blocks(own))
            claims.release(instance)

    pids = []
    for number in range(4):
        if (pid := os.fork()) == 0:
            code = 1
            try:
                work(f"vt-{number}")
                code = 0
            finally:
                os._exit(code)
        pids.append(pid)
    assert [os.waitpid(pid, 0)[1] for pid in pids] == [0, 0, 0, 0]
    assert not os.path.exists(claims.FOLDER)


def test_claims_that_users_of_the_host_could_change_are_refused(files: tuple[Path, Path]) -> None:
    os.mkdir(claims.FOLDER)
    os.chmod(claims.FOLDER, 0o777)
    with pytest.raises(HostError, match="it must be a directory that only root can write to"):
        claims.read(Instance())


def test_what_contradicts_the_record_is_named() -> None:
    base = FIRST_ID + 16 * RANGE
    host = Ranges(held=frozenset(ranges.blocks(base)))
    good = seen("a", base)
    assert trouble(good, host) == "" and range_problems.is_kept(good, host)
    assert trouble(seen("a", base, upper=(base + 65535, base + 33)), host) == ""
    has = f"but the server has ids {ranges.show(base)}"
    never = "are not ids that servers may have"
    for wrong, message in (
        (seen("a", base, work=(0, 0)), f"work/ belongs to 0:0, {has}"),
        (seen("a", base, work=(base, 0)), f"work/ belongs to 1572864:0, {has}"),
        (seen("a", base, upper=(base, 0)), f"upper/ belongs to 1572864:0, {has}"),
        (seen("a", base, upper=(base + RANGE, base)), f"upper/ belongs to 1638400:1572864, {has}"),
        (seen("a", 0, recorded=None), f"ids 0-65535, from the owner of work/, {never}"),
        (seen("a", 1000), f"ids 1000-66535, from its record, {never}"),
        (seen("a", base + 1), f"ids 1572865-1638400, from its record, {never}"),
        (seen("a", END), f"ids 4294901760-4294967295, from its record, {never}"),
    ):
        assert trouble(wrong, host) == message
    copied = seen("b", base)
    assert trouble(good, host, copied) == "ids 1572864-1638399 are also those of Server/b"
    assert trouble(copied, host, good) == "ids 1572864-1638399 are also those of Server/a"
    taken = replace(host, held=frozenset(), claimed=dict.fromkeys(ranges.blocks(base), "other /srv/other"))
    assert trouble(good, taken) == (
        "ids 1572864-1638399 are claimed by instance other (state root /srv/other)"
    )
    later = replace(host, others=(Entry(base + 100, 65536, "alice in /etc/subuid"),))
    assert trouble(good, later) == ("ids 1572864-1638399 overlap ids 1572964-1638499 of alice in /etc/subuid")


def test_a_range_that_is_not_recorded_or_not_claimed_is_not_kept() -> None:
    host = Ranges(held=frozenset(ranges.blocks(FIRST_ID)))
    assert not range_problems.is_kept(seen("a", FIRST_ID, recorded=None), host)
    assert not range_problems.is_kept(seen("a", FIRST_ID), Ranges())


def test_the_servers_for_which_no_range_is_left_are_named_by_the_plan() -> None:
    machine = replace(V2, ranges=Ranges(own=((FIRST_ID, 2 * RANGE),)))
    there = Observed(servers={"old": seen("old", FIRST_ID)})
    wanted = Wanted("vsprov", "vsprov/mine", (IMAGE, server("a"), server("b")), {"i": "sha256:1"})
    plan = reconcile(wanted, there, machine)
    assert [(problem.subject, problem.message, problem.hint) for problem in plan.problems] == [
        (
            "Server/b",
            "no range of 65536 ids is left among those of user vsprov in /etc/subuid",
            "give user vsprov more ids in /etc/subuid, or remove servers",
        )
    ]
