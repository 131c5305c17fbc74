"""`foveate simulate`, as it is typed."""

from __future__ import annotations

import json

from typer.testing import CliRunner

from foveate.tools.cli import app
from foveate.tools.simulation import POLICIES

SMALL = [
    "simulate",
    "--streams",
    "12",
    "--abusive",
    "2",
    "--per-batch-ms",
    "10",
    "--per-frame-ms",
    "5",
    "--seconds",
    "1",
]


def test_every_policy_has_its_row() -> None:
    result = CliRunner().invoke(app, SMALL, env={"COLUMNS": "120"})
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    for name in POLICIES:
        assert any(name in line and "%" in line for line in lines)


def test_json_says_the_same_each_time() -> None:
    first, second = (CliRunner().invoke(app, [*SMALL, "--json"]).output for _ in range(2))
    rows = json.loads(first)
    assert [row["policy"] for row in rows] == list(POLICIES)
    assert rows[-1]["on_time_of_capacity"] > rows[0]["on_time_of_capacity"]
    assert first == second


def test_somebody_must_be_well_behaved() -> None:
    result = CliRunner().invoke(app, ["simulate", "--streams", "5", "--abusive", "5"])
    assert result.exit_code == 2
    assert "well-behaved" in result.output
