"""A pipeline: the model, engine and lane behind a name that streams ask for."""

from __future__ import annotations

import hashlib
import logging
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from foveate.engines.contract import Engine, EngineInfo, Slot
from foveate.engines.errors import ConfigError, EngineError, FoveateError, NoSuchPipeline, ProtocolError
from foveate.engines.profile import LatencyProfile, batch_buckets, measure_profile
from foveate.engines.registry import engine_class
from foveate.models.outputs import DecodeOptions
from foveate.models.package import PreparedModel, load_package, prepare
from foveate.models.store import ModelStore
from foveate.service.batch import Answered
from foveate.service.config import EngineConfig, PipelineConfig, ServiceConfig
from foveate.service.lane import Lane
from foveate.service.prediction import LatencyModel

__all__ = ["OnAnswers", "Pipeline", "PipelineSet", "Unavailable", "open_pipeline", "open_pipelines"]

_log = logging.getLogger(__name__)

OnAnswers = Callable[[Sequence[Answered]], None]


@dataclass(frozen=True, slots=True)
class Unavailable:
    """A pipeline that is configured and not served."""

    name: str
    model: str
    reason: str
    """Why, and what to do about it."""


@dataclass(frozen=True, slots=True)
class Pipeline:
    """A model that is served under a name."""

    name: str
    model: PreparedModel
    engine: EngineInfo
    lane: Lane
    default_view: DecodeOptions

    def class_ids(self, labels: Sequence[str]) -> frozenset[int]:
        """The class indices of some labels. Raises: ProtocolError for a label that the model does not have."""
        index = {label: at for at, label in enumerate(self.model.labels)}
        unknown = [label for label in labels if label not in index]
        if unknown:
            some = ", ".join(list(index)[:10]) + (", ..." if len(index) > 10 else "")
            raise ProtocolError(f"classes: {self.name} has no label {unknown[0]!r}; it has {some}")
        return frozenset(index[label] for label in labels)


class PipelineSet:
    """All configured pipelines by name, served or not."""

    def __init__(self, pipelines: Mapping[str, Pipeline | Unavailable], default: str) -> None:
        self.all = pipelines
        self.default = default

    @property
    def ready(self) -> list[Pipeline]:
        return [pipeline for pipeline in self.all.values() if isinstance(pipeline, Pipeline)]

    def get(self, name: str) -> Pipeline:
        """The pipeline of that name; the default one for "".

        Raises: NoSuchPipeline if there is none; ConfigError if it is configured but cannot be served.
        """
        found = self.all.get(name or self.default)
        if found is None:
            known = ", ".join(pipeline.name for pipeline in self.ready)
            raise NoSuchPipeline(f"no pipeline {name!r} here: expected one of {known}")
        if isinstance(found, Unavailable):
            raise ConfigError(f"pipeline {found.name!r} is not served: {found.reason}")
        return found

    def close(self) -> None:
        """Answer what waits in every lane, and release the engines."""
        for pipeline in self.ready:
            pipeline.lane.close()


def open_pipelines(config: ServiceConfig, on_answers: OnAnswers) -> PipelineSet:
    """Load every configured pipeline. Only the default one is fetched; the others wait to be.

    Raises: FoveateError if the default pipeline cannot be served.
    """
    store = ModelStore(config.model_store)
    default = config.default_pipeline_name
    opened: dict[str, Pipeline | Unavailable] = {}
    try:
        for name, wanted in config.pipelines.items():
            fetch = config.fetch and name == default
            try:
                model = prepare(load_package(wanted.model), store, fetch=fetch)
                opened[name] = _open(name, wanted, config, model, store, on_answers)
            except FoveateError as error:
                if name == default:
                    raise
                _log.info("pipeline %s is not served: %s", name, error)
                opened[name] = Unavailable(name, wanted.model, str(error))
    except BaseException:
        PipelineSet(opened, default).close()
        raise
    return PipelineSet(opened, default)


def open_pipeline(
    name: str,
    model: PreparedModel,
    engine: Engine,
    profile: LatencyProfile,
    on_answers: OnAnswers,
    *,
    wanted: PipelineConfig,
    decoders: int = 0,
) -> Pipeline:
    """Serve a model on a loaded engine of which the profile is known."""
    manifest = model.manifest
    view = DecodeOptions(
        manifest.min_score if wanted.min_score is None else wanted.min_score,
        wanted.max_detections or manifest.max_detections,
    )
    lane = Lane(engine, model, LatencyModel(profile), on_answers, slots=wanted.engine.slots, decoders=decoders)
    return Pipeline(name, model, engine.info, lane, view)


def _open(
    name: str,
    wanted: PipelineConfig,
    config: ServiceConfig,
    model: PreparedModel,
    store: ModelStore,
    on_answers: OnAnswers,
) -> Pipeline:
    settings = wanted.engine
    engine = engine_class(settings.backend).from_file(
        model.onnx_path, name=model.manifest.name, max_batch=settings.max_batch, threads=settings.threads or None
    )
    try:
        engine.load()
        profile = _warm_profile(engine, settings, model, store)
        return open_pipeline(name, model, engine, profile, on_answers, wanted=wanted, decoders=config.decode_threads)
    except BaseException:
        engine.close()
        raise


def _warm_profile(engine: Engine, settings: EngineConfig, model: PreparedModel, store: ModelStore) -> LatencyProfile:
    """The engine's profile, after each batch size has run: the first run of a shape allocates."""
    slot = engine.new_slot()
    for batch in batch_buckets(engine.info.max_batch):
        engine.run(slot, batch)
    return _profile(engine, slot, settings, model, store)


def _profile(
    engine: Engine, slot: Slot, settings: EngineConfig, model: PreparedModel, store: ModelStore
) -> LatencyProfile:
    """The engine's profile as it was measured on this machine before, or measured now and kept."""
    info = engine.info
    threads = settings.threads or len(os.sched_getaffinity(0))
    made_of = (model.key, info.backend, info.backend_version, info.precision, info.device, info.max_batch, threads)
    key = hashlib.sha256(repr((*made_of, platform.node())).encode()).hexdigest()
    try:
        if kept := store.read_profile(key):
            return LatencyProfile.from_json(kept)
    except EngineError as error:
        _log.warning("the kept profile of %s is not usable and is measured again: %s", info.name, error)
    profile = measure_profile(engine, slot=slot, time_limit_s=settings.profile_s)
    store.write_profile(key, profile.to_json())
    return profile
