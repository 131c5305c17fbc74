"""The command line as a whole: it answers at once, and says what it can do."""

from __future__ import annotations

import subprocess
import sys

import pytest
from typer.testing import CliRunner

from foveate.tools.cli import app

_HEAVY = ("grpc", "cv2", "onnx", "onnxruntime", "pydantic_settings", "foveate.service", "foveate.proto")


def test_help_loads_nothing_heavy() -> None:
    """What makes `foveate --help` answer in half a second is all that it does not import."""
    code = f"""
import sys
from foveate.tools.cli import app
try:
    app(["--help"])
except SystemExit:
    pass
print([name for name in {_HEAVY!r} if name in sys.modules], file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"
    assert "serve" in done.stdout


def test_the_default_settings_are_printed_as_a_file_that_is_read_back(tmp_path: object) -> None:
    first = CliRunner().invoke(app, ["serve", "--print-config"])
    assert first.exit_code == 0
    path = f"{tmp_path}/foveate.toml"
    with open(path, "w", encoding="utf-8") as file:
        file.write(first.stdout)
    second = CliRunner().invoke(app, ["serve", "--config", path, "--print-config"])
    assert second.stdout == first.stdout
    assert "# HOST:PORT of the gRPC server" in first.stdout
    assert "[pipelines.faces]" in first.stdout


@pytest.mark.parametrize("arguments", [["serve", "--pipeline", "cats"], ["serve", "--config", "/nowhere/at.toml"]])
def test_a_wrong_setting_is_one_line_of_error(arguments: list[str]) -> None:
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 1
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1


def test_the_version_is_told() -> None:
    assert CliRunner().invoke(app, ["--version"]).stdout.startswith("foveate 0.")
