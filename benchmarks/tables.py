"""Tables of medians, as they are printed."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from benchmarks.samples import Sample


def medians(samples: Sequence[Sample]) -> dict[tuple[str, int, str], float]:
    values: dict[tuple[str, int, str], list[float]] = {}
    for sample in samples:
        values.setdefault((sample.subject, sample.servers, sample.action), []).append(sample.value)
    return {key: statistics.median(found) for key, found in values.items()}


def print_table(found: Mapping[tuple[str, int, str], float]) -> None:
    actions = ("up", "watched", "again", "change", "down")
    heads = [
        *(f"{action} ms" for action in actions),
        "per server",
        "up/floor",
        "down/floor",
        "kB/server",
        "beside",
    ]
    print(f"{'':8}{'':22}" + "".join(f"{head:>12}" for head in heads))
    order = dict.fromkeys((servers, subject) for subject, servers, _ in found)
    for servers, subject in sorted(order, key=lambda each: each[0]):

        def value(action: str, of: str = subject, n: int = servers) -> float | None:
            return found.get((of, n, action))

        up, down = value("up"), value("down")
        floor_up, floor_down = value("up", "floor"), value("down", "floor")
        memory, beside = value("memory"), value("processes beside")
        cells = [
            *(cell(value(action), "{:.1f}") for action in actions),
            cell(up, "{:.2f}", servers),
            cell(up, "{:.2f}", floor_up),
            cell(down, "{:.2f}", floor_down),
            cell(memory, "{:.0f}", servers),
            cell(beside, "{:.0f}"),
        ]
        print(f"{servers:>7} {subject:22}" + "".join(f"{cell:>12}" for cell in cells))


def cell(value: float | None, form: str, divisor: float | None = 1) -> str:
    return "" if value is None or not divisor else form.format(value / divisor)


def print_inside(found: Mapping[str, Mapping[str, float]]) -> None:
    print(f"\n{'inside a server':30}{'native us':>12}{'inside us':>12}{'speed':>12}")
    for operation, each in found.items():
        native, inside = each["native_ns"], each["inside_ns"]
        print(f"{operation:30}{native / 1e3:>12.2f}{inside / 1e3:>12.2f}{native / inside:>12.2f}")
