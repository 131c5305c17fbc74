"""What is to be measured: the fake engine, a pipeline in a server started here, or a server that runs already."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from foveate.client.settings import PixelFormat, StreamSettings
from foveate.engines.errors import ConfigError
from foveate.tools.bench.cores import Cores, on_cores
from foveate.tools.bench.fake_service import FAKE_PIPELINE, FakeSpec, fake_engine
from foveate.tools.bench.raw_rate import RawRate, raw_rate
from foveate.tools.bench.scenarios import Target
from foveate.tools.bench.served import Served, serving

if TYPE_CHECKING:
    from foveate.service.config import ServiceConfig

__all__ = ["TargetWish", "opened_target"]

_PICTURES = 48
_SERVER_MODULE = "foveate.service.embedded"
_FAKE_MODULE = "foveate.tools.bench.fake_service"


@dataclass(frozen=True, slots=True)
class TargetWish:
    """What a person asked to be measured."""

    fake: FakeSpec | None = None
    pipeline: str = ""
    """Empty: the default one."""
    config: Path | None = None
    server: str = ""
    """HOST:PORT of one that runs already; its engine is measured here, so it had better run on this machine."""
    source: str = ""
    """Video or pictures to send; empty: the demo's video."""
    quality: int = 90


@contextmanager
def opened_target(wish: TargetWish, cores: Cores) -> Iterator[Target]:
    """The target, with its engine's raw rate measured on the server's cores before any load; this process then keeps
    to the load tool's cores."""
    opened = _real_target(wish, cores) if wish.fake is None else _fake_target(wish.fake, cores)
    with opened as target:
        yield target


@contextmanager
def _fake_target(spec: FakeSpec, cores: Cores) -> Iterator[Target]:
    def alone() -> RawRate:
        with on_cores(cores.server), fake_engine(spec) as engine:
            return raw_rate(engine)

    raw = alone()
    settings: StreamSettings = {
        "pipeline": FAKE_PIPELINE,
        "format": PixelFormat.RAW_RGB,
        "width": spec.side_px,
        "height": spec.side_px,
    }
    with serving(_FAKE_MODULE, spec.to_json(), cores.server) as served, on_cores(cores.load):
        yield Target(served, settings, [spec.picture], raw, alone)


@contextmanager
def _real_target(wish: TargetWish, cores: Cores) -> Iterator[Target]:
    from foveate.service.config import load_config, only_pipelines

    config = load_config(wish.config)
    name = wish.pipeline or config.default_pipeline_name
    config = only_pipelines(config, [name])
    pictures = _pictures(wish)
    alone = partial(_raw_rate_of_pipeline, config, name, cores)
    raw = alone()
    if wish.server:
        with on_cores(cores.load):
            yield Target(Served(wish.server), {"pipeline": name}, pictures, raw, alone)
        return
    limits = config.limits.model_copy(update={"max_streams": 4096})
    config = config.model_copy(update={"listen": "127.0.0.1:0", "drain_grace_ms": 1000, "limits": limits})
    with serving(_SERVER_MODULE, config.model_dump_json(), cores.server) as served, on_cores(cores.load):
        yield Target(served, {"pipeline": name}, pictures, raw, alone)


def _raw_rate_of_pipeline(config: ServiceConfig, name: str, cores: Cores) -> RawRate:
    from foveate.engines.engine_choice import choose_engine
    from foveate.engines.engine_store import EngineStore
    from foveate.models.package import load_package, prepare
    from foveate.models.store import ModelStore

    wanted = config.pipelines[name]
    model = prepare(load_package(wanted.model), ModelStore(config.model_store))
    chosen = choose_engine(model.onnx_path, wanted.model, wanted.engine.wish, EngineStore(config.engine_store))
    with on_cores(cores.server), chosen.new_engine(name, wanted.engine.threads or None) as engine:
        return raw_rate(engine)


def _pictures(wish: TargetWish) -> Sequence[bytes]:
    from foveate.tools.demo_video import demo_video_path
    from foveate.tools.video_source import encoded, open_source

    source = open_source(wish.source or str(demo_video_path()))
    pictures = [encoded(picture, wish.quality) for picture in islice(source, _PICTURES)]
    if not pictures:
        raise ConfigError(f"{source.name} holds no pictures")
    return pictures
