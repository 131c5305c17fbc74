"""From settings to running lanes: models prepared, engines loaded, latencies known."""

from __future__ import annotations

import logging
import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from foveate.engines.contract import Engine
from foveate.engines.engine_choice import choose_engine
from foveate.engines.engine_store import EngineStore
from foveate.engines.errors import ConfigError, FoveateError
from foveate.engines.profile import LatencyProfile
from foveate.engines.serving_latency import serving_latency
from foveate.models.outputs import DecodeOptions
from foveate.models.package import PreparedModel, load_package, prepare
from foveate.models.store import ModelStore
from foveate.service.batch import BatchSlot
from foveate.service.config import CascadeConfig, PipelineConfig, ServiceConfig
from foveate.service.decode_choice import decodes_on_device
from foveate.service.device import Device
from foveate.service.device_time import DeviceTime
from foveate.service.lane import Lane
from foveate.service.pipeline import CascadeStage, Pipeline, PipelineSet, Unavailable
from foveate.service.placing import Placing
from foveate.service.prediction import LatencyModel
from foveate.service.tracking import require_tracking
from foveate.service.video_choice import device_video, may_decode_video

__all__ = ["NewSlots", "OpenPipelines", "Opened", "cascade_stages", "new_slots", "open_pipeline", "open_pipelines"]

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
    """Load every configured pipeline. Only the default one is fetched, with its cascade; the others wait to be.

    Raises: FoveateError if the default pipeline cannot be served.
    """
    store = ModelStore(config.model_store)
    default = config.default_pipeline_name
    fetched = {default, *(stage.pipeline for stage in config.pipelines[default].cascade)} if config.fetch else set()
    opened: dict[str, Pipeline | Unavailable] = {}
    lanes: dict[str, Lane] = {}
    times = defaultdict[str, DeviceTime](DeviceTime)  # by the engines' device
    try:
        for name, wanted in sorted(config.pipelines.items(), key=_after_its_stages):
            try:
                model = prepare(load_package(wanted.model), store, fetch=name in fetched)
                cascade = cascade_stages(wanted, model, opened, lanes)
                opened[name], lanes[name] = _open(name, wanted, config, model, make_slots, times, cascade)
            except FoveateError as error:
                if name == default:
                    raise
                _log.info("pipeline %s is not served: %s", name, error)
                opened[name] = Unavailable(name, wanted.model, str(error))
        takes_held = any(lane.takes_held for lane in lanes.values())
        video = device_video(config.video_decode, takes_held, config.decode_threads)  # in what the engines leave of it
    except BaseException:
        Device(lanes.values()).close()
        raise
    in_order = {name: opened[name] for name in config.pipelines}
    return Opened(PipelineSet(in_order, default), Device([lanes[name] for name in in_order if name in lanes], video))


def cascade_stages(
    wanted: PipelineConfig,
    model: PreparedModel,
    opened: Mapping[str, Pipeline | Unavailable],
    lanes: Mapping[str, Lane],
) -> tuple[CascadeStage, ...]:
    """The stages of a pipeline's cascade, whose own pipelines have been opened; of a pipeline without one, none.

    Raises: ConfigError if a stage is not served or makes no sense; EngineUnavailable if the pipeline is to track and
    cannot.
    """
    if (wanted.cascade or wanted.track is not None) and model.manifest.task != "detect":
        what = "a cascade" if wanted.cascade else "tracking"
        raise ConfigError(f"{what} follows detection, and {model.manifest.name} is of task {model.manifest.task}")
    if wanted.track is not None:
        require_tracking()
    return tuple(_stage(stage, model, opened[stage.pipeline], lanes) for stage in wanted.cascade)


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
    cascade: tuple[CascadeStage, ...] = (),
    video: bool = False,
) -> Served:
    """Serve a model on a loaded engine of which the profile is known; for `decoders` and `device_time` see `Lane`.

    `video` says whether its device may be the one to decode that.
    """
    manifest = model.manifest
    view = DecodeOptions(
        manifest.min_score if wanted.min_score is None else wanted.min_score,
        wanted.max_detections or manifest.max_detections,
    )
    slots = make_slots(name, engine, wanted.engine.slots)
    hold_ns = wanted.engine.hold_ms * 1_000_000
    latency = LatencyModel(profile)
    held = video and engine.open_placer()
    jpegs = decodes_on_device(wanted.engine.decode, engine, slots[0], model, decoders)
    placing = Placing(engine, slots, jpegs=jpegs, held=held) if jpegs or held else None
    lane = Lane(
        name, engine, latency, slots, decoders=decoders, hold_ns=hold_ns, device_time=device_time, placing=placing
    )
    return Pipeline(name, model, engine.info, view, len(slots), cascade, wanted.track), lane


def _open(
    name: str,
    wanted: PipelineConfig,
    config: ServiceConfig,
    model: PreparedModel,
    make_slots: NewSlots,
    times: Mapping[str, DeviceTime],
    cascade: tuple[CascadeStage, ...],
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
            name,
            model,
            engine,
            latency,
            make_slots,
            wanted=wanted,
            decoders=decoders,
            device_time=device_time,
            cascade=cascade,
            video=may_decode_video(config.video_decode),
        )
    except BaseException:
        engine.close()
        raise


def _after_its_stages(item: tuple[str, PipelineConfig]) -> bool:
    """Sorts pipelines with a cascade behind those that it may run on, which have none."""
    return bool(item[1].cascade)


def _stage(
    stage: CascadeConfig, detector: PreparedModel, runs_on: Pipeline | Unavailable, lanes: Mapping[str, Lane]
) -> CascadeStage:
    where = f"the stage {stage.name!r} of its cascade"
    if isinstance(runs_on, Unavailable):
        raise ConfigError(f"{where} runs on pipeline {runs_on.name!r}, which is not served: {runs_on.reason}")
    if runs_on.model.manifest.task == "detect":
        raise ConfigError(
            f"{where} runs on pipeline {runs_on.name!r}, which is a detector: expected a classifier or an embedding"
        )
    unknown = [label for label in stage.classes if label not in detector.labels]
    if unknown:
        some = ", ".join(detector.labels[:10]) + (", ..." if len(detector.labels) > 10 else "")
        raise ConfigError(f"{where}: {detector.manifest.name} has no label {unknown[0]!r}; it has {some}")
    class_ids = frozenset(at for at, label in enumerate(detector.labels) if label in stage.classes)
    min_score = runs_on.default_view.min_score if stage.min_score is None else stage.min_score
    return CascadeStage(
        name=stage.name,
        pipeline=runs_on.name,
        class_ids=class_ids if stage.classes else None,
        margin=stage.margin,
        min_size_px=stage.min_size_px,
        max_crops=stage.max_crops,
        min_score=min_score,
        expected_ns=_expected_ns(lanes[runs_on.name], stage.max_crops),
    )


def _expected_ns(lane: Lane, crops: int) -> int:
    """What so many crops take that come while a batch runs."""
    batch = min(crops, lane.batch_cap)
    return lane.latency.latency_ns(batch) * (1 + math.ceil(crops / batch)) + lane.latency.margin_ns
