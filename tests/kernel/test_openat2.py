"""openat2(2) on a host on which files are renamed all the time."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.renames import renames
from vsprov.guest import sys_calls
from vsprov.kernel import syscall

pytestmark = pytest.mark.vm_subset
UPWARDS = "a/" + "../" * 1000 + "a"
TIMES = 2000


def test_a_rename_elsewhere_disturbs_no_path_upwards(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    top = os.open(tmp_path, os.O_PATH)
    try:
        with renames(tmp_path):
            for _ in range(TIMES):
                os.close(syscall.openat2(top, UPWARDS, os.O_PATH, syscall.RESOLVE_IN_ROOT))
                os.close(sys_calls.openat2(top, UPWARDS.encode(), os.O_PATH, sys_calls.RESOLVE_IN_ROOT))
    finally:
        os.close(top)


def test_other_errors_are_raised(tmp_path: Path) -> None:
    top = os.open(tmp_path, os.O_PATH)
    try:
        with renames(tmp_path):
            with pytest.raises(FileNotFoundError):
                syscall.openat2(top, "absent", os.O_PATH, syscall.RESOLVE_IN_ROOT)
            with pytest.raises(FileNotFoundError):
                sys_calls.openat2(top, b"absent", os.O_PATH, sys_calls.RESOLVE_IN_ROOT)
    finally:
        os.close(top)
