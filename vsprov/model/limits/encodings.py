"""How the values of knobs are encoded in the files of a control group.

A *group* below holds the rounded values of one server or pool, {path: value}. *Texts* are file contents as
the kernel shows them, {file: text}, normalized by `normal`. An absent value means the kernel's default, which
vsprov manages too: it writes the default if the file differs.

Sources: Documentation/admin-guide/cgroup-v2.rst, cgroup-v1/{memory,cpusets,blkio-controller,hugetlb}.rst,
scheduler/sched-bwc.rst.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from msgspec import Struct, field

from vsprov.model.values import units
from vsprov.model.values.units import MAX

Group = Mapping[str, Any]
Texts = Mapping[str, str]

PERIOD = 100_000  # microseconds; the kernel's default CFS period
CPU_QUANTUM = PERIOD // 1000  # microseconds of quota per thousandth of a CPU
# v1 shows "no limit" as the largest multiple of a page that fits; values from here on are treated as that.
UNLIMITED = 2**62


class Host(Struct, frozen=True):
    """Properties of the host that encodings use. `devices` maps paths of block devices to "major:minor"."""

    page: int = 4096
    cpus: str = "0"
    mems: str = "0"
    devices: Mapping[str, str] = field(default_factory=dict)


class Side(Struct, frozen=True):
    """A knob on one cgroup version.

    `encode` returns the texts for a value, `read` the value from the texts of the whole group; None is the
    default. `at_most`: a file that must not hold less than `files[0]`, or the kernel refuses the write.
    `reset`: text that, written after a device number, removes the line of that device. `new_group`: content
    of the file in a new group if that is not the default. `nested`: the kernel refuses a value beyond that of
    the parent. `blank`: an empty file also means the default, but the file cannot be emptied while the group
    has processes (ENOSPC).
    """

    controller: str
    files: tuple[str, ...]
    encode: Callable[[Any, Group, Host], Texts]
    read: Callable[[Texts, Host], Any]
    at_most: str = ""
    reset: str = ""
    new_group: str | None = None
    nested: bool = False
    blank: bool = False

    def decode(self, texts: Texts, host: Host) -> Any:
        """The value from the texts of the whole group; None for the default and for malformed texts."""
        try:
            return self.read(texts, host)
        except (ValueError, LookupError, ArithmeticError):
            return None


def read_flag(text: str) -> bool:
    return bool(int(text))


def read_ids(text: str) -> str | None:
    """A new v1 group has no CPUs and cannot hold processes."""
    return units.parse_id_list(text) if text else None


def scalar(
    controller: str,
    file: str,
    default: str | Callable[[Host], str],
    *,
    unlimited: str = MAX,
    at_most: str = "",
    rounded: Callable[[Any, Host], Any] | None = None,
    read: Callable[[str], Any] = int,
    new_group: str | None = None,
    nested: bool = False,
    blank: bool = False,
) -> Side:
    """A knob with one word in one file; `unlimited` is how the file spells "max"."""

    def initial(host: Host) -> str:
        return default if isinstance(default, str) else default(host)

    def encode(value: Any, group: Group, host: Host) -> Texts:
        if value is None:
            return {file: initial(host)}
        kept = rounded(value, host) if rounded else value
        word = int(kept) if isinstance(kept, bool) else kept
        return {file: unlimited if word == MAX else str(word)}

    def decode(texts: Texts, host: Host) -> Any:
        text = texts[file]
        if text == initial(host) or (blank and not text):
            return None
        return MAX if text == unlimited else read(text)

    return Side(controller, (file,), encode, decode, at_most, new_group=new_group, nested=nested, blank=blank)


def to_multiple(value: Any, size: int) -> Any:
    """The kernel rounds memory limits down to pages and treats the largest values as no limit."""
    return MAX if value == MAX or value >= UNLIMITED else value // size * size


def to_page(value: Any, host: Host) -> Any:
    """The value rounded to pages, for `scalar(rounded=…)`."""
    return to_multiple(value, host.page)


def to_hugepage(size: int) -> Callable[[Any, Host], Any]:
    """A function that rounds values to huge pages of `size` bytes, for `scalar(rounded=…)`."""
    return lambda value, host: to_multiple(value, size)


# cpu.weight 1..10000 on v1's 2..262144 scale, so that both defaults (100, 1024) meet; exact both ways.
V1_SHARES = Side(
    "cpu",
    ("cpu.shares",),
    encode=lambda value, group, host: {"cpu.shares": str((100 if value is None else value) * 1024 // 100)},
    read=lambda texts, host: (
        None if texts["cpu.shares"] == "1024" else max(1, round(int(texts["cpu.shares"]) * 100 / 1024))
    ),
)


def _quota(value: Any) -> str | None:
    return None if value in (None, MAX) else str(value * CPU_QUANTUM)


def _decode_bandwidth(quota: str, period: str, unlimited: str = MAX) -> Any:
    if quota == unlimited:
        return None if int(period) == PERIOD else MAX
    return round(int(quota) * 1000 / int(period))


V1_BANDWIDTH = Side(
    "cpu",
    ("cpu.cfs_quota_us", "cpu.cfs_period_us"),
    encode=lambda value, group, host: {
        "cpu.cfs_quota_us": _quota(value) or "-1",
        "cpu.cfs_period_us": str(PERIOD),
    },
    read=lambda texts, host: _decode_bandwidth(texts["cpu.cfs_quota_us"], texts["cpu.cfs_period_us"], "-1"),
    nested=True,
)


def _read_cpu_max(texts: Texts, host: Host) -> Any:
    quota, period = texts["cpu.max"].split()
    return _decode_bandwidth(quota, period)


V2_BANDWIDTH = Side(
    "cpu",
    ("cpu.max",),
    encode=lambda value, group, host: {"cpu.max": f"{_quota(value) or MAX} {PERIOD}"},
    read=_read_cpu_max,
)


# v1 limits memory and swap together: memsw = memory.max + swapMax, which cannot be expressed without
# memory.max.
def _encode_memsw(value: Any, group: Group, host: Host) -> Texts:
    limit, swap = (
        to_page(size, host) for size in (group.get("memory.max", MAX), MAX if value is None else value)
    )
    both = MAX if MAX in (limit, swap) else to_page(limit + swap, host)
    return {"memory.memsw.limit_in_bytes": "-1" if both == MAX else str(both)}


def _decode_memsw(texts: Texts, host: Host) -> Any:
    both, limit = texts["memory.memsw.limit_in_bytes"], texts["memory.limit_in_bytes"]
    return None if both == "-1" or limit == "-1" else int(both) - int(limit)


V1_MEMSW = Side("memory", ("memory.memsw.limit_in_bytes",), _encode_memsw, _decode_memsw)


def _encode_tcp(value: Any, group: Group, host: Host) -> Texts:
    limit = to_page(group.get("memory.max", MAX) if value is None else value, host)
    return {"memory.kmem.tcp.limit_in_bytes": "-1" if limit == MAX else str(limit)}


def _decode_tcp(texts: Texts, host: Host) -> Any:
    text = texts["memory.kmem.tcp.limit_in_bytes"]
    return None if text == texts["memory.limit_in_bytes"] else MAX if text == "-1" else int(text)


V1_TCP = Side("memory", ("memory.kmem.tcp.limit_in_bytes",), _encode_tcp, _decode_tcp)

V2_IO_WEIGHT = Side(
    "io",
    ("io.weight",),
    encode=lambda value, group, host: {"io.weight": f"default {100 if value is None else value}"},
    read=lambda texts, host: (
        None if texts["io.weight"] == "default 100" else int(texts["io.weight"].split()[1])
    ),
)

_IO_KEYS = (("readBps", "rbps"), ("writeBps", "wbps"), ("readIops", "riops"), ("writeIops", "wiops"))


def _device_number(path: str, host: Host) -> str:
    return host.devices.get(path, path)  # a missing device has no number; the kernel refuses its path


def _encode_io_max(value: Any, group: Group, host: Host) -> Texts:
    lines = []
    for limits in map(dict, value or ()):
        if any(limits[ours] != MAX for ours, _ in _IO_KEYS):
            lines.append(
                f"{_device_number(limits['device'], host)} "
                + " ".join(f"{key}={limits[ours]}" for ours, key in _IO_KEYS)
            )
    return {"io.max": "\n".join(sorted(lines))}


def _decode_io_max(texts: Texts, host: Host) -> Any:
    paths = {number: path for path, number in host.devices.items()}
    rows = []
    for line in texts["io.max"].splitlines():
        number, *pairs = line.split()
        words = dict(pair.split("=") for pair in pairs)
        rows.append(
            (("device", paths.get(number, number)), *((ours, _limit(words[key])) for ours, key in _IO_KEYS))
        )
    return tuple(sorted(rows)) or None


def _limit(text: str) -> Any:
    return MAX if text == MAX else int(text)


_THROTTLE_FILES = {
    "readBps": "blkio.throttle.read_bps_device",
    "writeBps": "blkio.throttle.write_bps_device",
    "readIops": "blkio.throttle.read_iops_device",
    "writeIops": "blkio.throttle.write_iops_device",
}


def _encode_throttle(value: Any, group: Group, host: Host) -> Texts:
    return {
        file: "\n".join(
            sorted(
                f"{_device_number(limits['device'], host)} {limits[key]}"
                for limits in map(dict, value or ())
                if limits[key] != MAX
            )
        )
        for key, file in _THROTTLE_FILES.items()
    }


def _decode_throttle(texts: Texts, host: Host) -> Any:
    paths = {number: path for path, number in host.devices.items()}
    found: dict[str, dict[str, Any]] = {}
    for key, file in _THROTTLE_FILES.items():
        for line in texts[file].splitlines():
            number, text = line.split()
            found.setdefault(paths.get(number, number), dict.fromkeys(_THROTTLE_FILES, MAX))[key] = int(text)
    return tuple(sorted((("device", device), *limits.items()) for device, limits in found.items())) or None


V1_IO = Side("blkio", tuple(_THROTTLE_FILES.values()), _encode_throttle, _decode_throttle, reset="0")
V2_IO_MAX = Side(
    "io", ("io.max",), _encode_io_max, _decode_io_max, reset="rbps=max wbps=max riops=max wiops=max"
)


def normal(file: str, raw: str) -> str:
    """A file's content, normalized for comparison: v1's huge "no limit" is -1, device lines are sorted."""
    text = raw.strip()
    if file.endswith("limit_in_bytes"):
        return "-1" if int(text) >= UNLIMITED else text
    if file.startswith("hugetlb.") and text != MAX and int(text) >= UNLIMITED:
        return MAX  # cgroup2 also shows a limit that was never written as a number
    if file == "io.weight":  # the other lines are per-device overrides, which vsprov does not use
        return text.split("\n", 1)[0]
    return "\n".join(sorted(text.split("\n"))) if "\n" in text else text


def writes(side: Side, before: str, after: str) -> tuple[str, ...]:
    """The texts to write, one write(2) each, to change a file's text from `before` to `after`."""
    if not side.reset:
        return (after,)
    old, new = ({line.split(" ", 1)[0]: line for line in text.splitlines()} for text in (before, after))
    changed = [line for number, line in new.items() if old.get(number) != line]
    return (*changed, *(f"{number} {side.reset}" for number in old if number not in new))
