"""A server in a child process: it takes the caller's settings whole, says why it cannot start, and never lingers."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import grpc
import pytest

from foveate.engines.errors import ConfigError, ModelError
from foveate.models.package import import_file, load_package
from foveate.models.store import ModelStore
from foveate.service import embedded
from foveate.service.config import PipelineConfig, ServiceConfig, load_config, only_pipelines
from foveate.service.embedded import embedded_server
from support.shared_models import centerface


def test_it_says_why_it_cannot_start(tmp_path: Path) -> None:
    config = load_config(model_store=tmp_path, fetch=False)
    with pytest.raises(ModelError, match="foveate models fetch centerface"), embedded_server(config=config):
        pass


def test_an_unknown_pipeline_is_said_before_anything_starts() -> None:
    with pytest.raises(ConfigError, match="expected one of faces, objects, imagenet"), embedded_server(["cats"]):
        pass


def test_the_callers_settings_hold_whatever_the_environment_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load_config(model_store=tmp_path, fetch=False, pipelines={"mine": PipelineConfig(model="centerface")})
    monkeypatch.setenv("FOVEATE_PIPELINES__OTHER__MODEL", "nonsense")
    monkeypatch.setenv("FOVEATE_FETCH", "true")
    with pytest.raises(ModelError, match="centerface"), embedded_server(config=config):
        pass


@pytest.mark.parametrize("page", ["http://127.0.0.1:4711/", ""])
def test_it_says_in_one_line_where_it_listens_and_where_its_page_is(
    page: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def serve(config: ServiceConfig, on_ready: Any, new: Any, on_page: Any) -> None:
        on_ready("127.0.0.1:50051", None)
        if config.http:
            on_page(page)

    monkeypatch.setattr("foveate.service.serve.serve", serve)
    asyncio.run(embedded._run(load_config(http="127.0.0.1:0" if page else None), cast(Any, None)))
    (line,) = capsys.readouterr().out.splitlines()
    assert json.loads(line) == {"address": "127.0.0.1:50051"} | ({"page": page} if page else {})


@pytest.mark.network
@pytest.mark.parametrize("parent_dies", [True, False])
def test_it_ends_when_it_is_told_to_or_its_parent_dies(tmp_path: Path, parent_dies: bool) -> None:
    """A parent that is killed can clean up nothing; all that the child notices is the end of its input."""
    import_file(load_package("centerface"), ModelStore(tmp_path), centerface())
    config = load_config(
        model_store=tmp_path, engine_store=tmp_path / "engines", listen="127.0.0.1:0", drain_grace_ms=0
    )
    arguments = [sys.executable, "-m", "foveate.service.embedded"]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        server.stdin.write(only_pipelines(config, ["faces"]).model_dump_json() + "\n")
        server.stdin.flush()
        address = json.loads(server.stdout.readline())["address"]
        with grpc.insecure_channel(address) as channel:
            grpc.channel_ready_future(channel).result(40)
        if parent_dies:
            server.stdin.close()
        else:
            server.terminate()
        assert server.wait(40) == 0
