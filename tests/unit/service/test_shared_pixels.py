"""Frames in files below /dev/shm: only those that are meant for the service, and only what they hold."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foveate.engines.errors import BadFrame
from foveate.service import shared_memory
from foveate.service.frame import SharedMemoryRef
from foveate.service.shared_memory import shared_pixels

CONTENT = bytes(range(256)) * 40


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in place of /dev/shm, with one file for the service."""
    monkeypatch.setattr(shared_memory, "_FOLDER", str(tmp_path))
    (tmp_path / "foveate-door").write_bytes(CONTENT)
    return tmp_path


@pytest.mark.parametrize(("offset", "size"), [(0, len(CONTENT)), (0, 1), (4097, 100), (len(CONTENT) - 1, 1)])
def test_the_bytes_of_a_frame(offset: int, size: int) -> None:
    assert shared_pixels(SharedMemoryRef("foveate-door", offset, size)) == CONTENT[offset : offset + size]


@pytest.mark.parametrize(
    ("offset", "size"), [(0, len(CONTENT) + 1), (len(CONTENT), 1), (0, 0), (2**64 - 1, 2**64 - 1), (1, len(CONTENT))]
)
def test_what_lies_outside_the_file_is_refused(offset: int, size: int) -> None:
    with pytest.raises(BadFrame, match=rf"has {len(CONTENT)} bytes, the frame is said to lie at {offset} to"):
        shared_pixels(SharedMemoryRef("foveate-door", offset, size))


@pytest.mark.parametrize(
    "name", ["", "door", "foveate-", "foveate-../secret", "/foveate-door", "foveate-a/b", "foveate-a\n", "foveate-é"]
)
def test_names_of_other_files_are_refused(name: str, folder: Path) -> None:
    (folder / "door").write_bytes(CONTENT)
    with pytest.raises(BadFrame, match="expected a name like foveate-CAMERA"):
        shared_pixels(SharedMemoryRef(name, 0, 1))


@given(st.text(max_size=30))
def test_no_name_leads_out_of_the_folder(name: str) -> None:
    with pytest.raises(BadFrame):
        shared_pixels(SharedMemoryRef(f"foveate-{name}/../../etc/passwd", 0, 1))


def test_a_missing_file_is_refused() -> None:
    with pytest.raises(BadFrame, match="cannot be opened: No such file"):
        shared_pixels(SharedMemoryRef("foveate-none", 0, 1))


def test_a_link_to_another_file_is_not_followed(folder: Path) -> None:
    (folder / "secret").write_bytes(CONTENT)
    (folder / "foveate-link").symlink_to(folder / "secret")
    with pytest.raises(BadFrame, match="cannot be opened"):
        shared_pixels(SharedMemoryRef("foveate-link", 0, 1))


def test_what_is_no_file_is_refused_without_waiting_for_it(folder: Path) -> None:
    os.mkfifo(folder / "foveate-pipe")
    (folder / "foveate-folder").mkdir()
    for name in ("foveate-pipe", "foveate-folder"):
        with pytest.raises(BadFrame, match="is not a file"):
            shared_pixels(SharedMemoryRef(name, 0, 1))


def test_a_file_that_is_cut_short_while_it_is_read_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stat = os.stat(folder / "foveate-door")
    os.truncate(folder / "foveate-door", 10)
    monkeypatch.setattr(os, "fstat", lambda handle: stat)
    with pytest.raises(BadFrame, match="cut short"):
        shared_pixels(SharedMemoryRef("foveate-door", 0, 11))


def test_a_file_that_may_only_be_read_is_enough(folder: Path) -> None:
    (folder / "foveate-door").chmod(0o400)
    assert shared_pixels(SharedMemoryRef("foveate-door", 0, 4)) == CONTENT[:4]
    assert (folder / "foveate-door").read_bytes() == CONTENT


@pytest.fixture(autouse=True)
def no_handle_is_left_open(folder: Path) -> Iterator[None]:
    yield
    opened = []
    for handle in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # another thread's, closed meanwhile
            opened.append(os.readlink(handle))
    assert not [path for path in opened if path.startswith(str(folder))]
