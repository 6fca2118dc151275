"""The backend of project quotas where there are none: nothing is read as a limit, nothing fails."""

from __future__ import annotations

from pathlib import Path

import pytest

from vsprov.store.space import project


@pytest.mark.parametrize("what", ["nothing", "a directory", "a file", "a link"])
def test_a_directory_without_a_project_has_no_limit(tmp_path: Path, what: str) -> None:
    upper = tmp_path / "upper"
    if what == "a directory":
        upper.mkdir()
    elif what == "a file":
        upper.write_text("")
    elif what == "a link":
        upper.symlink_to("/")
    assert project.find(str(tmp_path)) == 0
    assert project.observe(str(tmp_path)) is None


def test_a_state_root_behind_a_link_is_looked_at(tmp_path: Path) -> None:
    (tmp_path / "root").symlink_to("/dev/shm")
    assert project.lack(str(tmp_path / "root")).startswith("tmpfs of /dev/shm ")


def test_a_file_system_that_cannot_have_project_quotas_is_not_said_to_lack_an_option() -> None:
    assert project.lack("/dev/shm") == "tmpfs of /dev/shm has none: ext4 and xfs have"
