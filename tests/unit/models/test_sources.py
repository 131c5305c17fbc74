from pathlib import Path

import pytest

from foveate.engines.errors import ConfigError
from foveate.models.sources import (
    ExportSource,
    FileSource,
    HttpsSource,
    HuggingFaceSource,
    PypiSource,
    Source,
    TorchvisionSource,
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
