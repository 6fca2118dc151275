"""Checks across documents and of values against each other; most are in tests/cases/manifest."""

from __future__ import annotations

import graphlib
import itertools
import pathlib
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vsprov.errors import ManifestError, Problem
from vsprov.manifest.checks import image, limits, manifest, objects
from vsprov.manifest.checks import server as of_server
from vsprov.manifest.load import load_documents

CASES = pathlib.Path(__file__).parents[1] / "cases" / "manifest"


def document(kind: str, name: str, spec: dict[str, Any], **metadata: Any) -> dict[str, Any]:
    return {"apiVersion": "vsprov/v1", "kind": kind, "metadata": {"name": name, **metadata}, "spec": spec}


def server(name: str = "a", **spec: Any) -> dict[str, Any]:
    return document("Server", name, {"image": "i", "init": {"command": ["/bin/true"]}, **spec})


def found(*documents: dict[str, Any], images: frozenset[str] = frozenset({"i"})) -> list[Problem]:
    try:
        return list(load_documents(documents, known_images=images).warnings)
    except ManifestError as error:
        return list(error.problems)


def said(*documents: dict[str, Any]) -> list[str]:
    return [f"{problem.path}: {problem.message}" for problem in found(*documents)]


def depending(graph: dict[str, list[str]]) -> list[dict[str, Any]]:
    return [server(name, dependsOn=[{"name": one} for one in after]) for name, after in graph.items()]


def test_an_image_may_be_there_without_a_document() -> None:
    assert found(server(image="debian"), images=frozenset({"debian"})) == []
    (problem,) = found(server(image="debain"), images=frozenset({"debian"}))
    assert problem.message == "Image/debain not found; did you mean 'debian'?"


def test_a_long_chain_of_dependencies_is_no_cycle() -> None:
    chain = {f"s{i}": [f"s{i + 1}"] if i < 2999 else [] for i in range(3000)}
    assert said(*depending(chain)) == []


def test_a_long_cycle_is_named_in_short() -> None:
    (line,) = said(*depending({f"s{i}": [f"s{(i + 1) % 100}"] for i in range(100)}))
    assert line == (
        "spec.dependsOn[0].name: circular dependency: "
        "s0 → s1 → s2 → s3 → s4 → s5 → s6 → s7 → … → s98 → s99 → s0"
    )


@given(
    st.dictionaries(st.sampled_from("abcdef"), st.lists(st.sampled_from("abcdef"), max_size=3, unique=True))
)
def test_a_cycle_is_found_exactly_where_there_is_one(graph: dict[str, list[str]]) -> None:
    graph = {name: [one for one in after if one in graph] for name, after in graph.items()}
    lines = said(*depending(graph))
    try:
        graphlib.TopologicalSorter(graph).prepare()
        assert lines == []
    except graphlib.CycleError:
        assert lines
    for line in lines:
        way = re.sub(".*: ", "", line).split(" → ")
        assert way[0] == way[-1]
        assert all(after in graph[before] for before, after in itertools.pairwise(way))


@given(
    st.integers(1, 10**12), st.integers(0, 10**12), st.integers(0, 10**12), st.booleans()
)  # fmt: skip
def test_memory_knobs_are_bounded_by_max_wherever_they_come_from(
    most: int, low: int, high: int, merged: bool
) -> None:
    most, low, high = (size << 20 for size in (most, low, high))
    knobs = {"low": low, "high": high}
    if merged:
        quota = document("Quota", "q", {"memory": knobs})
        documents = [quota, server(quota="q", resources={"memory": {"max": most}})]
    else:
        documents = [server(resources={"memory": {**knobs, "max": most}})]
    wrong = sum(value > most for value in knobs.values())
    assert len(found(*documents)) == wrong


def test_a_quota_that_is_wrong_by_itself_is_said_once_and_not_of_each_server() -> None:
    quota = document("Quota", "q", {"memory": {"max": "1Mi", "high": "2Mi"}})
    problems = found(quota, *(server(f"s{i}", quota="q") for i in range(50)))
    assert [problem.subject for problem in problems] == ["Quota/q"]


def test_a_misspelt_limit_is_the_only_thing_said() -> None:
    resources = {"cpu": {"limt": 1, "burst": "1ms"}, "memory": {"swapMax": 0}}
    assert said(server(resources=resources)) == [
        "spec.resources.cpu.limt: unknown key; did you mean 'limit'?"
    ]


@pytest.mark.parametrize(
    "target", ["/dev/shm", "/dev/shm/x", "/device", "/procs", "/sys2", "/tmp", "/a b", "/ü,:\\"]
)
def test_a_mount_may_stand_anywhere_else(target: str) -> None:
    assert said(server(mounts=[{"type": "tmpfs", "target": target}])) == []


@pytest.mark.parametrize(
    "target",
    ["/", "/proc", "/proc/1", "/sys", "/dev", "/dev/null", "/dev/shmx", "/a/..", "/a/./b", "//a", "/a/"],
)
def test_a_mount_may_not_stand_here(target: str) -> None:
    assert len(said(server(mounts=[{"type": "tmpfs", "target": target}]))) == 1


def test_nested_mounts_are_no_problem() -> None:
    mounts = [{"type": "tmpfs", "target": target} for target in ("/a/b/c", "/a", "/a/b")]
    assert said(server(mounts=mounts)) == []


def test_what_does_not_fit_in_a_mark_is_refused_before_anything_is_made() -> None:
    init = {"command": ["/bin/true"], "env": {"A": "x" * 33_000}}
    (line,) = said(server(init=init))
    assert line == (
        "metadata.name: command, env, mounts, labels and annotations have 33010 characters in total, "
        "at most 32768"
    )


def test_a_broken_quota_is_not_missing() -> None:
    problems = found(document("Quota", "q", {"cpu": 5}), server(quota="q"))
    assert [problem.path for problem in problems] == ["spec.cpu"]


def test_every_check_has_a_case_or_a_test_that_makes_it_speak() -> None:
    text = "".join(file.read_text() for file in CASES.glob("*.yaml")) + pathlib.Path(__file__).read_text()
    words = {
        manifest.duplicates: "is already defined",
        manifest.groups: "is reserved",
        manifest.idle_dependencies: "duplicate dependency",
        manifest.circular_dependencies: "circular dependency",
        manifest.circular_builds: "circular build",
        manifest.missing_references: "Image/nothing not found",
        manifest.missing_commands: "has no default command",
        limits.bounds: "exceeds max",
        limits.burst: "a burst requires a limit",
        limits.swap_without_memory: "without memory.max",
        limits.least_memory: "a server needs memory",
        limits.one_cpu: "is the number of a CPU, not an amount of time",
        limits.pool_rlimits: "a pool cannot share this",
        objects.notes: "unknown knob",
        objects.size: "at most 32768",
        of_server.mount_targets: "cannot mount in",
        of_server.mount_kinds: "a bind mount requires a source",
        of_server.host_ids: "can make setuid programs",
        of_server.tmpfs_size: "a size of 0 would mean no limit",
        of_server.working_dir: "spec.init.workingDir: '/srv/..'",
        of_server.command: "the program name is empty",
        of_server.capabilities: "is both added and dropped",
        image.host_paths: "host.paths[1]",
        image.oci: "applies only to registries",
        image.build_paths: "each server mounts its own /proc",
    }
    every = [*manifest.CHECKS, *manifest.REFERENCES]
    alone = (*limits.LIMIT_CHECKS, *objects.OBJECT_CHECKS, *of_server.SERVER_CHECKS, *image.IMAGE_CHECKS)
    assert list(words) == [*every, *alone]
    assert [phrase for phrase in words.values() if phrase not in text] == []
