import errno
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from mana_migration.errors import ReportError
from mana_migration.files import free_name, new_file, refuse_taken, write_new_file


def content(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def test_a_new_file_is_complete_and_readable_by_its_owner_alone(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        write_new_file(tmp_path / "report.txt", "all of it")
    finally:
        os.umask(before)
    assert (tmp_path / "report.txt").read_text() == "all of it"
    assert stat.S_IMODE((tmp_path / "report.txt").stat().st_mode) == 0o600
    assert content(tmp_path) == ["report.txt"]


def test_nothing_has_the_name_before_everything_is_written(tmp_path: Path) -> None:
    with new_file(tmp_path / "report.txt") as stream:
        stream.write(b"half")
        stream.flush()
        assert not (tmp_path / "report.txt").exists()
    assert (tmp_path / "report.txt").read_bytes() == b"half"


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_file_that_could_not_be_finished_leaves_nothing_behind(tmp_path: Path, error: type[BaseException]) -> None:
    with pytest.raises(error), new_file(tmp_path / "report.txt") as stream:
        stream.write(b"half")
        raise error
    assert content(tmp_path) == []


def test_a_taken_name_is_refused_and_kept(tmp_path: Path) -> None:
    (tmp_path / "report.txt").write_text("old")
    with pytest.raises(ReportError, match="exists already and is never overwritten"):
        write_new_file(tmp_path / "report.txt", "new")
    assert (tmp_path / "report.txt").read_text() == "old"


def test_a_name_that_is_taken_meanwhile_is_refused_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "report.txt"
    with pytest.raises(ReportError, match="exists already"), new_file(path) as stream:
        stream.write(b"new")
        path.write_text("somebody was faster")
    assert path.read_text() == "somebody was faster"
    assert content(tmp_path) == ["report.txt"]


@pytest.mark.parametrize("exists", [True, False], ids=["target exists", "dangling"])
def test_a_symbolic_link_is_not_followed(tmp_path: Path, exists: bool) -> None:
    target = tmp_path / "target"
    if exists:
        target.write_text("old")
    (tmp_path / "report.txt").symlink_to(target)
    with pytest.raises(ReportError, match="exists already"):
        write_new_file(tmp_path / "report.txt", "new")
    assert target.exists() is exists
    assert not exists or target.read_text() == "old"


def test_a_folder_that_is_a_symbolic_link_is_refused_with_its_real_path(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with pytest.raises(ReportError, match=r"is a symbolic link; give the folder's real path, .*/real"):
        write_new_file(tmp_path / "link" / "report.txt", "new")
    assert content(tmp_path / "real") == []


def test_a_folder_swapped_meanwhile_does_not_get_the_file(tmp_path: Path) -> None:
    folder, elsewhere = tmp_path / "folder", tmp_path / "elsewhere"
    folder.mkdir()
    elsewhere.mkdir()
    with new_file(folder / "report.txt") as stream:
        stream.write(b"mine")
        folder.rename(tmp_path / "moved")
        folder.symlink_to(elsewhere)
    assert content(elsewhere) == []
    assert (tmp_path / "moved" / "report.txt").read_bytes() == b"mine"


def test_a_missing_folder_is_refused_unless_it_is_to_be_made(tmp_path: Path) -> None:
    path = tmp_path / "reports" / "2026" / "report.txt"
    with pytest.raises(ReportError, match="cannot be written"):
        refuse_taken(path)
    with new_file(path, make_folder=True) as stream:
        stream.write(b"x")
    assert stat.S_IMODE((tmp_path / "reports" / "2026").stat().st_mode) == 0o700


def test_a_full_disk_is_one_clear_sentence_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ReportError, match="No space left on device"), new_file(tmp_path / "report.txt"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert content(tmp_path) == []


def test_a_filesystem_without_hard_links_does_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **options: Any) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", refuse)
    write_new_file(tmp_path / "report.txt", "new")
    assert (tmp_path / "report.txt").read_text() == "new"
    with pytest.raises(ReportError, match="exists already"), new_file(tmp_path / "other.txt") as stream:
        stream.write(b"new")
        (tmp_path / "other.txt").write_text("somebody was faster")
    assert (tmp_path / "other.txt").read_text() == "somebody was faster"
    assert content(tmp_path) == ["other.txt", "report.txt"]


def test_a_free_name_has_the_first_number_that_is_not_taken(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    assert free_name(path) == path
    path.touch()
    (tmp_path / "report-2.json").symlink_to("nowhere")
    assert free_name(path) == tmp_path / "report-3.json"
