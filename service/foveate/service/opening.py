"""From settings to running lanes: models prepared, engines loaded, latencies known."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from foveate.engines.contract import Engine
from foveate.engines.engine_choice import choose_engine
from foveate.engines.engine_store import EngineStore
from foveate.engines.errors import FoveateError
from foveate.engines.profile import LatencyProfile
from foveate.engines.serving_latency import serving_latency
from foveate.models.outputs import DecodeOptions
from foveate.models.package import PreparedModel, load_package, prepare
from foveate.models.store import ModelStore
from foveate.service.batch import BatchSlot
from foveate.service.config import PipelineConfig, ServiceConfig
from foveate.service.decode_choice import decodes_on_device
from foveate.service.device import Device
from foveate.service.device_time import DeviceTime
from foveate.service.lane import Lane
from foveate.service.pipeline import Pipeline, PipelineSet, Unavailable
from foveate.service.placing import Placing
from foveate.service.prediction import LatencyModel

__all__ = ["NewSlots", "OpenPipelines", "Opened", "new_slots", "open_pipeline", "open_pipelines"]

_log = logging.getLogger(__name__)

NewSlots = Callable[[str, Engine, int], Sequence[BatchSlot]]
"""Makes so many slots of the engine of a pipeline."""
Served = tuple[Pipeline, Lane]


@dataclass(frozen=True, slots=True)
class Opened:
    """The pipelines of a device, and the device itself."""

    pipelines: PipelineSet
    device: Device


OpenPipelines = Callable[[ServiceConfig, NewSlots], Opened]


def new_slots(pipeline: str, engine: Engine, count: int) -> list[BatchSlot]:
    """Slots in the engine's own memory."""
    (spec,) = engine.info.inputs
    return [BatchSlot(slot, slot.inputs[spec.name]) for slot in (engine.new_slot() for _ in range(count))]


def open_pipelines(config: ServiceConfig, make_slots: NewSlots = new_slots) -> Opened:
    """Load every configured pipeline. Only the default one is fetched; the others wait to be.

    Raises: FoveateError if the default pipeline cannot be served.
    """
    store = ModelStore(config.model_store)
    default = config.default_pipeline_name
    opened: dict[str, Pipeline | Unavailable] = {}
    lanes: list[Lane] = []
    times = defaultdict[str, DeviceTime](DeviceTime)  # by the engines' device
    try:
        for name, wanted in config.pipelines.items():
            fetch = config.fetch and name == default
            try:
                model = prepare(load_package(wanted.model), store, fetch=fetch)
                opened[name], lane = _open(name, wanted, config, model, make_slots, times)
                lanes.append(lane)
            except FoveateError as error:
                if name == default:
                    raise
                _log.info("pipeline %s is not served: %s", name, error)
                opened[name] = Unavailable(name, wanted.model, str(error))
    except BaseException:
        Device(lanes).close()
        raise
    return Opened(PipelineSet(opened, default), Device(lanes))


def open_pipeline(
    name: str,
    model: PreparedModel,
    engine: Engine,
    profile: LatencyProfile,
    make_slots: NewSlots,
    *,
    wanted: PipelineConfig,
    decoders: int = 0,
    device_time: DeviceTime | None = None,
) -> Served:
    """Serve a model on a loaded engine of which the profile is known; for the last two see `Lane`."""
    manifest = model.manifest
    view = DecodeOptions(
        manifest.min_score if wanted.min_score is None else wanted.min_score,
        wanted.max_detections or manifest.max_detections,
    )
    slots = make_slots(name, engine, wanted.engine.slots)
    hold_ns = wanted.engine.hold_ms * 1_000_000
    latency = LatencyModel(profile)
    on_device = decodes_on_device(wanted.engine.decode, engine, slots[0], model, decoders)
    placing = Placing(engine, slots) if on_device else None
    lane = Lane(
        name, engine, latency, slots, decoders=decoders, hold_ns=hold_ns, device_time=device_time, placing=placing
    )
    return Pipeline(name, model, engine.info, view, len(slots)), lane


def _open(
    name: str,
    wanted: PipelineConfig,
    config: ServiceConfig,
    model: PreparedModel,
    make_slots: NewSlots,
    times: Mapping[str, DeviceTime],
) -> Served:
    if not wanted.allow_random_weights:
        model.require_trained()
    settings = wanted.engine
    threads = settings.threads or None
    engines = EngineStore(config.engine_store)
    chosen = choose_engine(model.onnx_path, wanted.model, settings.wish, engines)
    engine = chosen.new_engine(model.manifest.name, threads)
    try:
        engine.load()
        latency = serving_latency(engine, chosen.key, engines, threads=threads, time_limit_s=settings.profile_s)
        decoders, device_time = config.decode_threads, times[engine.info.device]
        return open_pipeline(
            name, model, engine, latency, make_slots, wanted=wanted, decoders=decoders, device_time=device_time
        )
    except BaseException:
        engine.close()
        raise
