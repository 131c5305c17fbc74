"""The demo's cascade is made of what the catalog has, and of settings that `foveate serve` takes as they are."""

from __future__ import annotations

from pathlib import Path

from typer.testing import CliRunner

from foveate.models.package import load_package
from foveate.service.config import load_config, only_pipelines
from foveate.tools.cli import app
from foveate.tools.demo_session import CASCADE_SETTINGS


def test_a_detector_of_the_catalog_has_a_classifier_of_it_behind() -> None:
    config = only_pipelines(load_config(CASCADE_SETTINGS), ["objects"])
    (stage,) = config.pipelines["objects"].cascade
    tasks = {name: load_package(each.model).manifest.task for name, each in config.pipelines.items()}
    assert tasks == {"objects": "detect", stage.pipeline: "classify"}


def test_it_does_not_mix_with_other_settings(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["demo", "--cascade", "--config", str(tmp_path / "mine.toml")])
    assert done.exit_code == 1
    assert "leave it out to use those of" in done.output
