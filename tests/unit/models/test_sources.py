import email.message
import http.client
import io
import sys
import urllib.error
import urllib.request
import urllib.response
import zipfile
from pathlib import Path
from typing import IO

import pytest

from foveate.engines.errors import ConfigError, ModelError
from foveate.models.sources import (
    ExportSource,
    FileSource,
    HttpsSource,
    HuggingFaceSource,
    PypiSource,
    Source,
    TorchvisionSource,
    https_opener,
    open_source,
    parse_source,
)

FOLDER = Path("/packages/mine")
WHEEL = PypiSource("tiny-model", "1.2", "tiny_model/model.onnx")
URL = "https://example.org/model.onnx"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("file:model.onnx", FileSource(FOLDER / "model.onnx")),
        ("file:../other/model.onnx", FileSource(FOLDER / "../other/model.onnx")),
        ("file:/abs/model.onnx", FileSource(Path("/abs/model.onnx"))),
        (URL, HttpsSource(URL)),
        ("pypi:tiny-model==1.2!tiny_model/model.onnx", WHEEL),
        ("torchvision:resnet50/IMAGENET1K_V2", TorchvisionSource("resnet50", "IMAGENET1K_V2")),
        ("hf:owner/repo/onnx/model.onnx@main", HuggingFaceSource("owner/repo", "onnx/model.onnx", "main")),
        ("export:pypi:tiny-model==1.2!tiny_model/model.onnx", ExportSource(WHEEL)),
    ],
)
def test_every_form_is_understood(text: str, expected: Source) -> None:
    assert parse_source(text, FOLDER) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "model.onnx",
        "file:",
        "http://example.org/model.onnx",
        "https:",
        "https:///model.onnx",
        "ftp://example.org/model.onnx",
        "pypi:tiny-model!model.onnx",
        "pypi:--index-url==1!model.onnx",
        "pypi:tiny-model==1.2!",
        "pypi:tiny model==1.2!model.onnx",
        "torchvision:resnet50",
        "hf:owner/repo@main",
        "hf:owner/repo/model.onnx",
        "export:",
    ],
)
def test_anything_else_is_refused_with_the_forms(text: str) -> None:
    with pytest.raises(ConfigError, match=r"is not understood: expected file:PATH"):
        parse_source(text, FOLDER)


@pytest.mark.parametrize(
    "text",
    ["pypi:a==1!/etc/passwd", "pypi:a==1!a/../../b", "pypi:a==1!..\\b", "hf:owner/repo/../x.onnx@main"],
)
def test_a_path_that_leaves_its_package_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"without '\.\.'"):
        parse_source(text, FOLDER)


@pytest.mark.parametrize("text", ["export:torchvision:resnet50/V1", "export:export:file:a.pth"])
def test_an_export_of_an_export_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="leave export: out"):
        parse_source(text, FOLDER)


@pytest.mark.parametrize(
    "source",
    [
        TorchvisionSource("resnet50", "IMAGENET1K_V2"),
        HuggingFaceSource("owner/repo", "model.onnx", "main"),
        ExportSource(WHEEL),
    ],
)
def test_what_needs_the_exporter_says_so(source: Source) -> None:
    with pytest.raises(ModelError, match="comes with the model exporter"), open_source(source):
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


class Web(urllib.request.HTTPSHandler):
    """Answers https requests from a table, under the real redirect and error handling."""

    def __init__(self, answers: dict[str, tuple[int, dict[str, str], IO[bytes]] | Exception]) -> None:
        super().__init__()
        self.answers = answers
        self.asked: list[urllib.request.Request] = []

    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        self.asked.append(req)
        answer = self.answers[req.full_url]
        if isinstance(answer, Exception):
            raise answer
        status, headers, body = answer
        message = email.message.Message()
        for name, value in headers.items():
            message[name] = value
        response = urllib.response.addinfourl(body, message, req.full_url, status)
        response.msg = http.client.responses[status]  # type: ignore[attr-defined]
        return response  # type: ignore[return-value]


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
