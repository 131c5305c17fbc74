"""Every setting of the service, in one place: a TOML file, then the environment, then the command line.

Nothing else reads the environment. `FOVEATE_LISTEN=...` sets a field, `FOVEATE_LIMITS__MAX_STREAMS=...` one of
a section.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from foveate.engines.build_options import Precision
from foveate.engines.engine_choice import EngineWish
from foveate.engines.errors import ConfigError

__all__ = [
    "DEFAULT_PIPELINES",
    "CascadeConfig",
    "EngineConfig",
    "Limits",
    "PipelineConfig",
    "ServiceConfig",
    "TrackConfig",
    "config_from_json",
    "load_config",
    "only_pipelines",
]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)


class Limits(_Section):
    """What a client may ask for; more than that is refused, and said."""

    max_streams: Annotated[int, Field(ge=1)] = 256
    """Streams open at once. One more is refused with RESOURCE_EXHAUSTED."""
    max_frame_bytes: Annotated[int, Field(ge=1024)] = 32 * 1024 * 1024
    """Bytes of one frame. A 4K picture as raw RGB has 25 MB; lower it where only JPEG comes in."""
    max_pixels: Annotated[int, Field(ge=64)] = 40_000_000
    """Width times height of one frame, checked in its header before anything is decoded."""
    max_waiting_bytes: Annotated[int, Field(ge=1024)] = 1024 * 1024 * 1024
    """Bytes of all unanswered frames together, of a video's as pictures (3 MB at 1080p); beyond it frames are REJECTED.
    Keep it well below the memory."""
    max_queue_depth: Annotated[int, Field(ge=1)] = 64
    """Frames that a stream opened with QUEUE may let wait."""


class EngineConfig(_Section):
    """How a pipeline's engine runs."""

    backend: str = "onnxruntime"
    """`onnxruntime` runs on the CPU, `tensorrt` and `tensorrt_rtx` on an NVIDIA GPU, `torch` on either."""
    precision: Precision = "fp32"
    """What it computes in. `onnxruntime` in fp32, and `torch` in fp32, fp16 and bf16, run a model as it is; all else
    needs an engine made by `foveate build`."""
    engine: str = ""
    """Key of one built engine, or how it begins; backend and precision are its own. Default: the best that fits."""
    max_batch: Annotated[int, Field(ge=1, le=256)] = 8
    """Most frames in one run, or the built engine's limit if that is smaller. On a CPU larger batches gain little."""
    threads: Annotated[int, Field(ge=0)] = 0
    """Threads of one run; 0: all cores that this process may use. Fewer leave room for decoding."""
    slots: Annotated[int, Field(ge=2, le=8)] = 3
    """Batches in flight: one runs, the next is being decoded, the one before is being turned into answers."""
    hold_ms: Annotated[int, Field(ge=0)] = 0
    """Milliseconds that a batch which is not full waits for more frames, as far as deadlines allow. It leaves a device
    that pipelines share to the others, and saves power; on an engine of one's own it gains no throughput."""
    decode: Literal["auto", "cpu", "gpu"] = "auto"
    """Where JPEGs are decoded: `gpu` needs a TensorRT engine and nvImageCodec, `auto` measures at the start which is
    faster. What the GPU does not take, and all other formats, the CPU decodes."""
    profile_s: Annotated[float, Field(gt=0.0)] = 0.6
    """Seconds spent measuring an engine at its first start here; `foveate profile` measures it for longer."""

    @property
    def wish(self) -> EngineWish:
        """The part of it that decides which engine is opened."""
        return EngineWish(self.backend, self.precision, self.max_batch, self.engine)


class CascadeConfig(_Section):
    """One stage of a detector's cascade: another pipeline looks at crops of what was detected."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=64)]
    """What the stage finds out: the name of the attribute in answers, such as `kind` or `colour`."""
    pipeline: str
    """The pipeline that crops go to: a classifier's or an embedding's, configured here too. Crops of all frames and
    streams share its batches, with each other and with whole frames that streams send it."""
    classes: tuple[str, ...] = ()
    """Labels of the detections that it looks at. Default: all."""
    margin: Annotated[float, Field(ge=0.0, le=1.0)] = 0.1
    """Added to the box on each side, as a share of its width and height; what leaves the frame is cut off."""
    min_size_px: Annotated[int, Field(ge=1)] = 16
    """Detections whose box is narrower or lower than this, in pixels of the frame, have no crop: there is too little
    to see in it."""
    max_crops: Annotated[int, Field(ge=1, le=100)] = 8
    """Most crops of one frame, those with the best scores; the other detections go without."""
    min_score: Annotated[float, Field(ge=0.0, le=1.0)] | None = None
    """A class that scores less is no attribute. Default: the threshold of the stage's pipeline."""


class TrackConfig(_Section):
    """How objects are followed from frame to frame. An empty section is enough to turn it on."""

    lost_s: Annotated[float, Field(ge=0.1, le=30.0)] = 1.5
    """Seconds that an object may be out of sight and still get its id back. Longer ones bridge longer hidden spells,
    and more often give the id to somebody else."""
    new_score: Annotated[float, Field(gt=0.0, le=1.0)] = 0.5
    """Score from which a detection begins a track; lower ones, as far as the pipeline's `min_score` lets them through,
    only go on with one. Lower it for a model whose good detections score less."""
    confirm_frames: Annotated[int, Field(ge=1, le=30)] = 2
    """Frames that must have seen an object before it gets an id. With 1 it has one at once, and so has what the
    detector makes up."""
    across_classes: bool = False
    """Whether a track may change its class: for a model that calls the same thing a car and then a truck. Otherwise
    only detections of one class make up a track."""
    refresh_s: Annotated[float, Field(gt=0.0)] = 5.0
    """Seconds after which a cascade looks again at an object whose class is settled; sooner while its votes disagree
    or are weak, and when its box has changed its size by half."""


class PipelineConfig(_Section):
    """One name that streams can ask for."""

    model: str
    """A model of the catalog, or the path of a folder with a `model.toml`."""
    min_score: Annotated[float, Field(ge=0.0, le=1.0)] | None = None
    """Detections or classes below it are left out where a client names no threshold. Default: the model's."""
    max_detections: Annotated[int, Field(ge=1, le=1000)] | None = None
    """Most detections or classes per frame where a client names no number. Default: the model's."""
    allow_random_weights: bool = False
    """Whether a model that nobody trained is served, to measure how fast it runs: its answers mean nothing."""
    engine: EngineConfig = EngineConfig()
    """How its engine runs."""
    cascade: tuple[CascadeConfig, ...] = ()
    """Stages that look closer at what a detector found, each within the frame's own budget. Default: none."""
    track: TrackConfig | None = None
    """Follows objects along a stream, and gives them ids; needs the extra `track`. Default: off."""


DEFAULT_PIPELINES: Mapping[str, PipelineConfig] = {
    "faces": PipelineConfig(model="centerface"),
    "objects": PipelineConfig(model="yolox_nano"),
    "imagenet": PipelineConfig(model="efficientnet_lite0"),
}


class ServiceConfig(BaseSettings):
    """All settings of one server."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        env_prefix="FOVEATE_",
        env_nested_delimiter="__",
        use_attribute_docstrings=True,
    )

    listen: str = "127.0.0.1:50051"
    """HOST:PORT of the gRPC server; port 0 takes a free one, `unix:PATH` a socket. 0.0.0.0 opens it to the network."""
    http: str = ""
    """HOST:PORT of the live page in a browser, /metrics, /healthz and /readyz; `:8080` is port 8080 on all addresses.
    Whoever reaches it sees the cameras' pictures without a password: 127.0.0.1:8080 keeps it on this machine.
    Needs the extra `http`. Default: none."""
    http_names: tuple[str, ...] = ()
    """Names by which browsers may reach the live page, beside IP addresses and this machine's own name: a web page
    elsewhere must not get at it by having a name of its own lead here."""
    ingest_processes: Literal["auto"] | Annotated[int, Field(ge=0, le=64)] = "auto"
    """Processes that receive and decode frames; 0: everything in one process. `auto`: 0 on up to 4 cores, else one for
    every 4 cores. Several share a port; a `unix:` socket has one."""
    devices: Literal["all"] | tuple[str, ...] = "all"
    """Each gets an engine process with all pipelines: `all`, or names such as ["cuda:0", "cuda:1"] or ["cpu"]. With
    everything in one process there is no choice."""
    pipelines: dict[str, PipelineConfig] = Field(default_factory=lambda: dict(DEFAULT_PIPELINES))
    """The pipelines by name. Naming any replaces the default ones."""
    default_pipeline: str = ""
    """Answers streams that name no pipeline. Default: the first one."""
    fetch: bool = True
    """Whether the default pipeline's model is fetched at the start where the store lacks it."""
    model_store: Path | None = None
    """Folder of fetched and prepared models. Default: `foveate/models` in the user's cache directory."""
    engine_store: Path | None = None
    """Folder of built engines and of measured profiles. Default: `foveate/engines` in the user's cache directory."""
    default_budget_ms: Annotated[int, Field(ge=1)] = 250
    """Milliseconds from capture to answer for streams that name no budget."""
    decode_threads: Annotated[int, Field(ge=0)] = 0
    """Frames of one batch that are decoded side by side, and beside them as many video streams; 0: as many as this
    process has cores."""
    video_decode: Literal["auto", "cpu", "gpu"] = "auto"
    """Where H.264 and H.265 streams are decoded: `gpu` is NVDEC of the engines' GPU, where the pictures stay, and
    refuses streams that it cannot have there; `auto` measures at the start which is faster, and falls back to the
    CPU. A GPU finds fewer broken access units."""
    drain_grace_ms: Annotated[int, Field(ge=0)] = 10_000
    """Milliseconds that open streams get to end by themselves when the server is asked to stop."""
    resume_s: Annotated[float, Field(ge=0.0)] = 30.0
    """Seconds that a broken stream can be taken up again by its token."""
    hang_s: Annotated[float, Field(gt=0.0)] = 10.0
    """Seconds without a sign of life, or that a run takes longer than predicted, or that the video decoder is at one
    picture, after which a process of the service is killed and started again. Shorter ones find a hang sooner, and
    kill one that only had no core to run on."""
    shared_memory: bool = True
    """Whether clients on this host may hand over raw frames in files below /dev/shm named `foveate-*`."""
    trace: Path | None = None
    """File for a trace of single frames in Chrome's JSON format, which Perfetto shows; overwritten. Default: none."""
    trace_sample: Annotated[int, Field(ge=1)] = 100
    """Of so many answers one is traced; 1 traces all, which costs some hundred microseconds each."""
    metrics_streams: Annotated[int, Field(ge=0, le=1000)] = 100
    """Streams that have metrics of their own, each 48 series; only those that their clients named. All others
    are counted together. More of them cost Prometheus memory, and a moment of each scrape."""
    limits: Limits = Limits()
    """What a client may ask for."""

    @model_validator(mode="after")
    def _pipelines_make_sense(self) -> Self:
        if not self.pipelines:
            raise ValueError("pipelines: name at least one")
        if self.default_pipeline and self.default_pipeline not in self.pipelines:
            known = ", ".join(self.pipelines)
            raise ValueError(f"default_pipeline {self.default_pipeline!r} is not one of: {known}")
        return self

    @model_validator(mode="after")
    def _cascades_make_sense(self) -> Self:
        for name, pipeline in self.pipelines.items():
            said = set[str]()
            for stage in pipeline.cascade:
                where = f"pipelines.{name}.cascade {stage.name!r}"
                if stage.name in said:
                    raise ValueError(f"{where}: another stage of the pipeline has that name already, choose another")
                said.add(stage.name)
                if (runs_on := self.pipelines.get(stage.pipeline)) is None:
                    known = ", ".join(each for each in self.pipelines if each != name) or "none beside it"
                    raise ValueError(
                        f"{where}: pipeline {stage.pipeline!r} is not configured, expected one of: {known}"
                    )
                if runs_on.cascade:
                    own = (
                        "the pipeline itself" if stage.pipeline == name else f"{stage.pipeline!r}, which has a cascade"
                    )
                    raise ValueError(f"{where} runs on {own}: expected a classifier or embedding without one")
        return self

    @property
    def default_pipeline_name(self) -> str:
        return self.default_pipeline or next(iter(self.pipelines))


def load_config(file: Path | None = None, **flags: Any) -> ServiceConfig:
    """The settings from a TOML file, the environment and `flags` (those that are None were not given).

    Raises: ConfigError naming each setting that is wrong.
    """
    origin = str(file) if file else "the settings"
    _refuse_unknown_variables()
    given = {name: value for name, value in flags.items() if value is not None}
    try:
        written = tomllib.loads(file.read_text(encoding="utf-8")) if file else {}
        return _plain(_config_over(written)(**given))
    except OSError as error:
        raise ConfigError(f"no configuration at {file}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} is not TOML: {error}") from error
    except SettingsError as error:
        raise ConfigError(f"{error}: expected JSON, as in FOVEATE_LIMITS='{{\"max_streams\": 8}}'") from error
    except ValidationError as error:
        faults = "; ".join(
            f"{'.'.join(str(part) for part in fault['loc']) or 'settings'}: {fault['msg']}" for fault in error.errors()
        )
        raise ConfigError(f"{origin}: {faults}") from error


def _config_over(written: Mapping[str, Any]) -> type[ServiceConfig]:
    """The settings' class that falls back on a file's values where neither flags nor the environment set any."""

    class OverFile(ServiceConfig):
        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,
            dotenv_settings: PydanticBaseSettingsSource,
            file_secret_settings: PydanticBaseSettingsSource,
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            return init_settings, env_settings, InitSettingsSource(settings_cls, init_kwargs=dict(written))

    return OverFile


def _plain(config: ServiceConfig) -> ServiceConfig:
    """The same settings without the sources that they came from, so that equal settings are equal."""
    return ServiceConfig.model_construct(**{name: getattr(config, name) for name in ServiceConfig.model_fields})


def _refuse_unknown_variables() -> None:
    """A misspelt variable would change nothing and say nothing."""
    prefix = "FOVEATE_"
    for name in os.environ:
        field = name.removeprefix(prefix).split("__")[0].lower()
        if name.startswith(prefix) and field not in ServiceConfig.model_fields:
            known = ", ".join(prefix + each.upper() for each in ServiceConfig.model_fields)
            raise ConfigError(f"the environment sets {name}, which is no setting: expected one of {known}")


class _CompleteConfig(ServiceConfig):
    """Settings that were put together elsewhere: neither file nor environment has a say any more."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings,)


def config_from_json(text: str) -> ServiceConfig:
    """The settings whose ``model_dump_json()`` this is, whatever the environment says here."""
    return _plain(_CompleteConfig.model_validate_json(text))


def only_pipelines(config: ServiceConfig, names: Sequence[str]) -> ServiceConfig:
    """The same settings with these of its pipelines alone, and those of their cascades; the first is the default.

    Raises: ConfigError for a name that is not configured.
    """
    unknown = [name for name in names if name not in config.pipelines]
    if unknown:
        raise ConfigError(f"no pipeline {unknown[0]!r} is configured: expected one of {', '.join(config.pipelines)}")
    stages = [stage.pipeline for name in names for stage in config.pipelines[name].cascade]
    wanted = {name: config.pipelines[name] for name in (*names, *stages)}
    return config.model_copy(update={"pipelines": wanted, "default_pipeline": names[0]})
