"""A real Prometheus that scrapes what a test serves."""

from __future__ import annotations

import json
import math
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlencode
from urllib.request import urlopen

from support.ports import free_port
from support.system_programs import require_program
from support.waiting import until

__all__ = ["Prometheus", "prometheus"]

Sample = tuple[Mapping[str, str], float]
_CONFIG = """
global: {{scrape_interval: 500ms, evaluation_interval: 200ms}}
rule_files: [{rules}]
scrape_configs:
  - job_name: foveate
    metrics_path: /metrics
    static_configs: [{{targets: ['{target}']}}]
"""


class Prometheus:
    """The HTTP API of one that runs."""

    def __init__(self, address: str) -> None:
        self._url = f"http://{address}"
        self._at: dict[str, str] = {}

    def query(self, expression: str) -> list[Sample]:
        """What an expression gives as of the latest `scraped`, or now.

        Raises: AssertionError if Prometheus does not accept it.
        """
        return [
            (each["metric"], float(each["value"][1]))
            for each in self._api("query", query=expression, **self._at)["result"]
        ]

    def number(self, expression: str) -> float:
        """The one number that an expression gives now; NaN if it gives none."""
        found = self.query(expression)
        assert len(found) <= 1, found
        return found[0][1] if found else math.nan

    def by(self, label: str, expression: str) -> dict[str, float]:
        """The numbers that an expression gives now, by one label."""
        return {labels.get(label, ""): value for labels, value in self.query(expression)}

    def scraped(self) -> None:
        """Return once a scrape that began after this call was stored; what fails later changes no answer."""
        self._at = {}
        now = float(self._api("query", query="time()")["result"][1])
        until(lambda: self.number("min(timestamp(foveate_build_info))") > now)
        self._at = {"time": f"{self.number('min(timestamp(foveate_build_info))'):.3f}"}

    def rules(self) -> list[Mapping[str, Any]]:
        """The rules that it evaluates, and how they are."""
        groups: list[Mapping[str, Any]] = self._api("rules")["groups"]
        return [rule for group in groups for rule in group["rules"]]

    def targets(self) -> list[Mapping[str, Any]]:
        """What it scrapes, and with what success."""
        found: list[Mapping[str, Any]] = self._api("targets")["activeTargets"]
        return found

    def ready(self) -> bool:
        try:
            with urlopen(f"{self._url}/-/ready", timeout=5) as reply:
                return bool(reply.status == 200)
        except (URLError, ConnectionError):
            return False

    def _api(self, what: str, **arguments: str) -> Any:
        try:
            with urlopen(f"{self._url}/api/v1/{what}?{urlencode(arguments)}", timeout=10) as reply:
                return json.load(reply)["data"]
        except HTTPError as error:
            with error:
                raise AssertionError(f"{arguments}: {error.read().decode()}") from error


@contextmanager
def prometheus(folder: Path, target: str, rules: Path) -> Iterator[Prometheus]:
    """Scrape HOST:PORT twice a second until the block ends, with its data below `folder`."""
    program = require_program("prometheus")
    config = folder / "prometheus.yml"
    config.write_text(_CONFIG.format(target=target, rules=rules), encoding="utf-8")
    address = f"127.0.0.1:{free_port()}"
    arguments = (f"--config.file={config}", f"--storage.tsdb.path={folder / 'data'}", f"--web.listen-address={address}")
    with (
        (folder / "log").open("w") as log,
        subprocess.Popen([program, *arguments, "--log.level=warn"], stderr=log, stdout=log) as process,
    ):
        try:
            running = Prometheus(address)
            until(lambda: process.poll() is not None or running.ready())
            assert process.poll() is None, (folder / "log").read_text(encoding="utf-8")
            yield running
        finally:
            process.kill()
