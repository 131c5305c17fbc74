"""The files that `foveate monitoring` writes, as far as neither Prometheus nor Grafana is needed to judge them."""

from __future__ import annotations

import json
import re
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from foveate.tools import monitoring_command
from foveate.tools.cli import app
from foveate.tools.monitoring_command import FILES

SHIPPED = Path(monitoring_command.__file__).parent / "monitoring"
DASHBOARD: Any = json.loads((SHIPPED / "grafana_dashboard.json").read_text(encoding="utf-8"))
PANELS: list[Any] = DASHBOARD["panels"]
SHOWN = [panel for panel in PANELS if panel["type"] != "row"]


def test_it_writes_all_files_for_a_target(tmp_path: Path) -> None:
    folder = tmp_path / "made" / "here"
    result = CliRunner().invoke(app, ["monitoring", str(folder), "--target", "vision.local:9000"])
    assert result.exit_code == 0, result.output
    assert sorted(path.name for path in folder.iterdir()) == sorted(FILES)
    assert result.stdout.splitlines() == [str(folder / name) for name in FILES]
    assert "targets: ['vision.local:9000']" in (folder / "prometheus.yml").read_text(encoding="utf-8")
    for name in ("alert_rules.yml", "grafana_dashboard.json"):
        assert (folder / name).read_bytes() == (SHIPPED / name).read_bytes()


def test_it_overwrites_nothing(tmp_path: Path) -> None:
    (tmp_path / "alert_rules.yml").write_text("mine", encoding="utf-8")
    result = CliRunner().invoke(app, ["monitoring", str(tmp_path)])
    assert result.exit_code == 1
    assert "is there already" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["alert_rules.yml"]
    assert (tmp_path / "alert_rules.yml").read_text(encoding="utf-8") == "mine"


@pytest.mark.parametrize("target", ["", "vision.local", "http://vision.local:80", "a:1'\n  - evil: true", "a:b"])
def test_a_target_that_is_none_is_refused(target: str, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["monitoring", str(tmp_path / "new"), "--target", target])
    assert result.exit_code == 1
    assert "expected HOST:PORT" in result.stderr
    assert not (tmp_path / "new").exists()


def test_panels_have_places_of_their_own_on_the_dashboard() -> None:
    assert len({panel["id"] for panel in PANELS}) == len(PANELS)
    for panel in PANELS:
        place = panel["gridPos"]
        assert set(place) == {"x", "y", "w", "h"}
        assert 0 <= place["x"] < place["x"] + place["w"] <= 24
    for one, other in combinations([panel["gridPos"] for panel in PANELS], 2):
        apart_x = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        apart_y = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert apart_x or apart_y, (one, other)


@pytest.mark.parametrize("panel", SHOWN, ids=lambda panel: panel["title"])
def test_a_panel_is_whole(panel: Any) -> None:
    assert panel["type"] in {"stat", "timeseries", "heatmap", "bargauge"}
    assert panel["title"]
    assert panel["description"].endswith(".")
    assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    assert panel["fieldConfig"].keys() == {"defaults", "overrides"}
    references = [target["refId"] for target in panel["targets"]]
    assert references == sorted(set(references))
    for target in panel["targets"]:
        assert target["datasource"] == panel["datasource"]
        assert target["expr"].count("(") == target["expr"].count(")")
        assert 'instance=~"$instance"' in target["expr"], "a replica can be picked"


def test_variables_are_all_defined_and_all_used() -> None:
    defined = [variable["name"] for variable in DASHBOARD["templating"]["list"]]
    text = json.dumps(PANELS)
    used = set(re.findall(r"\$\{?(\w+)\}?", text)) - {"__rate_interval"}
    assert used == set(defined)
    assert len(defined) == len(used)


def test_what_grafana_wants_of_a_dashboard() -> None:
    assert DASHBOARD["title"] == "Foveate"
    assert DASHBOARD["schemaVersion"] >= 36
    assert DASHBOARD.get("id") is None, "Grafana gives it one"
    assert re.fullmatch(r"[\w-]{1,40}", DASHBOARD["uid"])
    assert DASHBOARD["time"] == {"from": "now-30m", "to": "now"}


def test_rules_name_only_metrics_that_there_are() -> None:
    text = (SHIPPED / "alert_rules.yml").read_text(encoding="utf-8")
    expressions = "".join(re.findall(r"expr: (\|\n(?: {10,}.*\n)+|.*\n)", text)) + json.dumps(PANELS)
    used = set(re.findall(r"\bfoveate_\w+", expressions))
    defined = (Path(monitoring_command.__file__).parents[3] / "service/foveate/service/metrics_text.py").read_text()
    for name in used:
        family = re.sub(r"_(total|bucket|sum|count|info)$", "", name)
        stem = re.sub(r"^(foveate_(?:stream_)?frames)_(received|cancelled|late|undelivered)$", r"\1", family)
        assert f'"{stem}"' in defined, name
