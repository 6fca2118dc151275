"""The bytes of the machine code are what an assembler makes of the listing beside them."""

from __future__ import annotations

import inspect
import os
import re
import subprocess
from pathlib import Path

from tests.features import requires
from vsprov.guest import syscall_list

ASSEMBLER = "x86_64-linux-gnu-as"
LINE = re.compile(r'^    "(?P<bytes>[0-9a-f]+)" +# (?P<assembly>.+)$')
# Of the listing that as(1) writes: number of the line, offset, bytes, source.
ASSEMBLED = re.compile(r"^ +\d+ [0-9a-f]{4} (?P<bytes>[0-9A-F ]+?) *\t", re.MULTILINE)


def listing() -> list[tuple[str, str]]:
    """(bytes in hexadecimal, assembly) of each line of the machine code for x86_64."""
    source = inspect.getsource(syscall_list)
    start = source.index('CODE = {"x86_64"')
    lines = source[start : source.index(")}", start)].splitlines()[1:]
    matches = [LINE.match(line) for line in lines]
    assert all(matches), [line for line, match in zip(lines, matches, strict=True) if not match]
    return [(match["bytes"], match["assembly"]) for match in matches if match]


def assemble(folder: Path, lines: list[str]) -> list[str]:
    """The bytes that the assembler makes of each line."""
    source, output = folder / "code.s", folder / "code.lst"
    source.write_text("\n".join(lines) + "\n")
    syntax = ("--64", "-msyntax=intel", "-mnaked-reg", "--listing-lhs-width=4")
    command = [ASSEMBLER, *syntax, f"-aln={output}", "-o", str(folder / "code.o"), str(source)]
    subprocess.run(command, check=True, capture_output=True, text=True)
    return [made.replace(" ", "").lower() for made in ASSEMBLED.findall(output.read_text())]


def test_the_bytes_are_those_of_the_listing(tmp_path: Path) -> None:
    requires("as")
    lines = listing()
    made = assemble(tmp_path, [assembly for _code, assembly in lines])
    assert len(made) == len(lines) > 40
    right = "\n".join(
        f"""    {f'"{code}"':<20}# {assembly}""" for code, (_old, assembly) in zip(made, lines, strict=True)
    )
    assert made == [code for code, _assembly in lines], f"the lines of CODE should be\n{right}"
    assert bytes.fromhex("".join(made)) == syscall_list.CODE["x86_64"]


def test_the_machine_code_cannot_be_written_to_once_it_can_be_executed() -> None:
    if os.uname().machine not in syscall_list.CODE:
        assert syscall_list._entry is None
        return
    maps = Path("/proc/self/maps").read_text().splitlines()
    pages = [line.split() for line in maps if line.startswith(f"{syscall_list._address:x}-")]
    assert [fields[1] for fields in pages] == ["r-xs"]
    code = syscall_list.CODE[os.uname().machine]
    assert syscall_list._page[: len(code)] == code
