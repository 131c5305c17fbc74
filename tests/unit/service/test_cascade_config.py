"""A cascade in the settings: what makes no sense is said before anything is served, with what would."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from foveate.engines.errors import ConfigError, FoveateError
from foveate.service.config import ServiceConfig, config_from_json, load_config, only_pipelines
from foveate.service.config_text import config_text
from foveate.service.opening import open_pipelines
from foveate.service.pipeline import PipelineSet, Unavailable
from support.cascades import write_detector, write_embedder
from support.packages import write_package

STREET = """
[pipelines.street]
model = "centerface"

[[pipelines.street.cascade]]
name = "kind"
pipeline = "kinds"
classes = ["face"]
margin = 0.25

[[pipelines.street.cascade]]
name = "print"
pipeline = "prints"
max_crops = 3

[pipelines.kinds]
model = "efficientnet_lite0"

[pipelines.prints]
model = "efficientnet_lite0"

[pipelines.other]
model = "yolox_nano"
"""


def loaded(folder: Path, text: str) -> ServiceConfig:
    file = folder / "foveate.toml"
    file.write_text(text, encoding="utf-8")
    return load_config(file)


def test_a_cascade_is_read_from_toml_and_written_back(tmp_path: Path) -> None:
    config = loaded(tmp_path, STREET)
    kind, prints = config.pipelines["street"].cascade
    assert (kind.name, kind.pipeline, kind.classes, kind.margin, kind.max_crops) == (
        "kind",
        "kinds",
        ("face",),
        0.25,
        8,
    )
    assert (prints.name, prints.max_crops, prints.min_score) == ("print", 3, None)
    assert loaded(tmp_path, config_text(config)) == config
    assert config_from_json(config.model_dump_json()) == config
    assert [each["name"] for each in tomllib.loads(config_text(config))["pipelines"]["street"]["cascade"]] == [
        "kind",
        "print",
    ]


def test_a_pipeline_that_is_chosen_brings_its_stages_along(tmp_path: Path) -> None:
    chosen = only_pipelines(loaded(tmp_path, STREET), ["street"])
    assert list(chosen.pipelines) == ["street", "kinds", "prints"]
    assert chosen.default_pipeline_name == "street"


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (('pipeline = "kinds"', 'pipeline = "cars"'), "pipeline 'cars' is not configured, expected one of: kinds"),
        (('pipeline = "kinds"', 'pipeline = "street"'), "'kind' runs on the pipeline itself"),
        (('name = "print"', 'name = "kind"'), "another stage of the pipeline has that name"),
        (('name = "print"', 'name = "a b"'), "pattern"),
        (("margin = 0.25", "margin = 2.0"), "less than or equal to 1"),
        (("max_crops = 3", "max_crops = 0"), "greater than or equal to 1"),
        (("max_crops = 3", "most = 3"), "Extra inputs"),
        (
            ('model = "yolox_nano"', 'model = "yolox_nano"\ncascade = [{ name = "deep", pipeline = "street" }]'),
            "'street', which has a cascade",
        ),
    ],
)
def test_what_makes_no_sense_is_named(tmp_path: Path, change: tuple[str, str], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        loaded(tmp_path, STREET.replace(*change))


def opened(folder: Path, text: str, default: str = "plain") -> Any:
    """The pipelines of a service over tiny models."""
    bank = np.resize(np.array([[0, 0, 20, 20, 0.9, 0]], np.float32), (256, 1, 6))
    write_detector(folder / "banked", bank)
    write_package(folder / "brightest")
    write_embedder(folder / "colours")
    fields = {"fetch": False, "default_pipeline": default, "model_store": folder / "models"}
    file = folder / "foveate.toml"
    file.write_text(text.replace("FOLDER", str(folder)), encoding="utf-8")
    config = load_config(file, engine_store=folder / "engines", **fields)
    opened = open_pipelines(config)
    opened.device.close()
    return opened.pipelines


TINY = """
[pipelines.street]
model = "FOLDER/banked"
[[pipelines.street.cascade]]
name = "channel"
pipeline = "plain"
classes = ["car"]
[[pipelines.street.cascade]]
name = "colour"
pipeline = "colours"
min_score = 0.75
[pipelines.plain]
model = "FOLDER/brightest"
min_score = 0.4
[pipelines.colours]
model = "FOLDER/colours"
"""


def reason(pipelines: PipelineSet, name: str) -> str:
    refused = pipelines.all[name]
    assert isinstance(refused, Unavailable)
    return refused.reason


def test_stages_are_resolved_against_what_is_served(tmp_path: Path) -> None:
    pipelines = opened(tmp_path, TINY)
    assert list(pipelines.all) == ["street", "plain", "colours"], "in the order of the settings"
    channel, colour = pipelines.get("street").cascade
    assert (channel.name, channel.pipeline, channel.class_ids, channel.min_score) == ("channel", "plain", {0}, 0.4)
    assert (colour.class_ids, colour.min_score) == (None, 0.75)
    assert channel.expected_ns > 0


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (('classes = ["car"]', 'classes = ["lorry"]'), "'channel'.*: banked has no label 'lorry'; it has car, person"),
        (("FOLDER/colours", "FOLDER/nothing"), "'colour'.*runs on pipeline 'colours', which is not served: no model"),
        (("FOLDER/colours", "FOLDER/banked"), "pipeline 'colours', which is a detector: expected a classifier"),
        (('"FOLDER/banked"', '"FOLDER/brightest"'), "a cascade follows detection, and brightest is of task classify"),
    ],
)
def test_what_cannot_be_served_is_said_and_the_rest_is(tmp_path: Path, change: tuple[str, str], why: str) -> None:
    pipelines = opened(tmp_path, TINY.replace(*change))
    assert re.search(why, reason(pipelines, "street"))
    assert pipelines.get("plain").name == "plain"


def test_a_default_pipeline_whose_cascade_cannot_be_served_stops_the_start(tmp_path: Path) -> None:
    with pytest.raises(FoveateError, match="'colour' of its cascade runs on pipeline 'colours', which is not served"):
        opened(tmp_path, TINY.replace("FOLDER/colours", "FOLDER/nothing"), default="street")


def test_only_detections_are_tracked(tmp_path: Path) -> None:
    text = TINY.replace('model = "FOLDER/colours"', 'model = "FOLDER/colours"\n[pipelines.colours.track]')
    assert "tracking follows detection, and colours is of task embed" in reason(opened(tmp_path, text), "colours")
