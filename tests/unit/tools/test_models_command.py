import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from foveate.models.catalog import catalog_names
from foveate.tools.models_command import app
from support.packages import tiny_classifier, write_package

Run = Callable[..., tuple[int, str, str]]
"""Arguments of `foveate models` -> exit status, stdout, stderr."""


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Runs `foveate models ...` on a store of its own."""

    def invoke(*arguments: str) -> tuple[int, str, str]:
        result = CliRunner().invoke(app, [*arguments, "--store", str(tmp_path / "store")])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result.exit_code, result.stdout, result.stderr

    return invoke


def test_list_names_the_whole_catalog(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    code, out, _ = run("list")
    assert code == 0
    rows = [line.split() for line in out.splitlines()]
    assert [row[0] for row in rows[1:-1]] == list(catalog_names())
    assert rows[-1][0] == "verified:"
    assert ["centerface", "detect", "640x384", "MIT", "pypi", "no", "yes"] in rows


def test_list_as_json_marks_what_is_fetched(run: Run) -> None:
    code, out, _ = run("list", "--json")
    rows = {row["name"]: row for row in json.loads(out)}
    assert code == 0
    assert set(rows) == set(catalog_names())
    assert rows["yolox_nano"] == {
        "name": "yolox_nano",
        "task": "detect",
        "input": "416x416",
        "licence": "Apache-2.0",
        "source_kind": "https",
        "fetched": False,
        "verified": False,
    }


def test_show_gives_facts_terms_and_place(run: Run, tmp_path: Path) -> None:
    code, out, _ = run("show", "centerface", "--json")
    facts = json.loads(out)
    assert code == 0
    assert facts["labels"] == 1
    assert "WIDER FACE" in facts["data_terms"]
    assert facts["store"] == str(tmp_path / "store")
    assert facts["file"] == ""
    assert "WIDER FACE" in run("show", "centerface")[1].replace("\n", " ")


def test_fetch_prepares_a_package_of_ones_own(run: Run, tmp_path: Path) -> None:
    folder = write_package(tmp_path / "brightest", data_terms='"Ask first."')
    code, out, _ = run("fetch", str(folder))
    assert code == 0
    assert "brightest: ready at " in out
    assert "note: Ask first." in out
    prepared = Path(out.split("ready at ")[1].splitlines()[0])
    assert prepared.is_file()
    assert prepared.is_relative_to(tmp_path / "store")


def test_import_puts_a_file_in_and_tells_how_to_pin_it(run: Run, tmp_path: Path) -> None:
    folder = write_package(tmp_path / "brightest", content=b"", source='"https://localhost:1/model.onnx"')
    (tmp_path / "mine.onnx").write_bytes(tiny_classifier())
    code, out, _ = run("import", str(folder), str(tmp_path / "mine.onnx"))
    assert code == 0
    assert 'put sha256 = "' in out
    shown = json.loads(run("show", str(folder), "--json")[1])
    assert shown["fetched"] is True
    assert Path(shown["file"]).read_bytes() == tiny_classifier()


def add(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["add", *arguments])
    return result.exit_code, result.stdout, result.stderr


def test_add_writes_a_package_and_says_what_it_assumed(run: Run, tmp_path: Path) -> None:
    file, out = tmp_path / "Brightest.onnx", tmp_path / "repository"
    file.write_bytes(tiny_classifier())
    (tmp_path / "names.txt").write_text("red\ngreen\nblue\n")
    code, told, _ = add(str(file), "--head", "logits", "--labels", str(tmp_path / "names.txt"), "--out", str(out))
    assert code == 0
    assert f"brightest: written to {out / 'brightest'}" in told
    assert "  found    head logits: logits (batch, 3): one number a class" in told
    assert "  assumed  input: " in told
    assert f"FOVEATE_PIPELINES__CLASSIFY__MODEL={out / 'brightest'} foveate stream" in told
    assert run("fetch", str(out / "brightest"))[0] == 0


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (("--size", "big"), "--size is WIDTHxHEIGHT in pixels"),
        (("--head", "yolo"), "head 'yolo' does not read these outputs"),
        (("--labels", "coco"), "has the 3 names"),
    ],
)
def test_add_refuses_in_one_line_and_writes_nothing(tmp_path: Path, options: tuple[str, ...], complaint: str) -> None:
    (tmp_path / "tiny.onnx").write_bytes(tiny_classifier())
    code, told, error = add(str(tmp_path / "tiny.onnx"), *options, "--out", str(tmp_path))
    assert (code, told) == (1, "")
    assert complaint in error
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.onnx"]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("show", "centreface"), "did you mean centerface"),
        (("fetch", "yolox_s", "nothing_like_it"), "no model 'nothing_like_it'"),
        (("fetch", "yolox_s"), "names no sha256"),
        (("fetch", "rtdetr_r18"), "names no sha256"),
        (("fetch", "yolox_nano", "--random-weights"), "random weights are for torchvision: sources alone"),
        (("fetch", "resnet50", "--sha256", "0" * 64), "a sha256 cannot be given for torchvision's resnet50"),
        (("fetch", "yolox_nano", "--sha256", "0" * 64), "contradicts the manifest"),
        (("fetch", "yolox_s", "yolox_m", "--sha256", "0" * 64), "--sha256 belongs to one model"),
        (("import", "yolox_nano", "/no/such/file.onnx"), "cannot read the model file /no/such/file.onnx"),
    ],
)
def test_a_mistake_is_one_line_on_stderr_and_status_1(run: Run, arguments: tuple[str, ...], complaint: str) -> None:
    code, out, err = run(*arguments)
    assert code == 1
    assert out == ""
    assert err.startswith("error: ")
    assert complaint in err
    assert "Traceback" not in err
