import hashlib
import io
import urllib.error
from pathlib import Path

import pytest

from foveate.engines.errors import ChecksumMismatch, ModelError
from foveate.models.downloads import https_opener
from foveate.models.exporters.torch_hub import checkpoint_file
from support.web import Web

CONTENT = b"weights"
NAME = f"tiny-{hashlib.sha256(CONTENT).hexdigest()[:8]}.pth"
URL = f"https://example.org/models/{NAME}"


def answering(content: bytes) -> Web:
    return Web({URL: (200, {"Content-Length": str(len(content))}, io.BytesIO(content))})


def files_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_checkpoint_is_downloaded_once(tmp_path: Path) -> None:
    web, seen = answering(CONTENT), list[tuple[int, int | None]]()
    folder = tmp_path / "hub" / "checkpoints"
    path = checkpoint_file(URL, folder, opener=https_opener(web), on_progress=lambda *each: seen.append(each))
    assert path == folder / NAME
    assert path.read_bytes() == CONTENT
    assert seen == [(7, 7)]
    assert checkpoint_file(URL, folder, opener=https_opener(web)) == path
    assert len(web.asked) == 1
    assert files_in(folder) == [NAME]


def test_another_file_than_its_name_says_is_refused_and_not_kept(tmp_path: Path) -> None:
    with pytest.raises(ChecksumMismatch, match=r"expected a sha256 that begins with [0-9a-f]{8}, got "):
        checkpoint_file(URL, tmp_path, opener=https_opener(answering(b"others")))
    assert files_in(tmp_path) == []


def test_a_file_that_was_there_before_is_checked_too(tmp_path: Path) -> None:
    (tmp_path / NAME).write_bytes(b"damaged")
    with pytest.raises(ChecksumMismatch, match="delete the file"):
        checkpoint_file(URL, tmp_path)
    assert files_in(tmp_path) == [NAME]


def test_without_a_network_the_place_for_a_copy_is_named(tmp_path: Path) -> None:
    web = Web({URL: urllib.error.URLError(OSError("network is closed"))})
    with pytest.raises(ModelError, match=f"network is closed.*a copy from elsewhere goes into {tmp_path} as {NAME}"):
        checkpoint_file(URL, tmp_path, opener=https_opener(web))
    assert files_in(tmp_path) == []


def test_a_checkpoint_that_could_not_be_checked_is_refused_before_it_is_fetched(tmp_path: Path) -> None:
    web = Web({})
    with pytest.raises(ModelError, match=r"tiny\.pth carries no hash in its name"):
        checkpoint_file("https://example.org/tiny.pth", tmp_path, opener=https_opener(web))
    assert web.asked == []


def test_ctrl_c_leaves_nothing_behind(tmp_path: Path) -> None:
    def interrupted(done: int, total: int | None) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        checkpoint_file(URL, tmp_path, opener=https_opener(answering(CONTENT)), on_progress=interrupted)
    assert files_in(tmp_path) == []
