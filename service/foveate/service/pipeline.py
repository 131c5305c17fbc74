"""A pipeline: the model and engine behind a name that streams ask for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

from foveate.engines.contract import EngineInfo
from foveate.engines.errors import ConfigError, NoSuchPipeline, ProtocolError
from foveate.models.outputs import DecodeOptions
from foveate.models.package import PreparedModel
from foveate.service.config import TrackConfig

__all__ = ["CascadeStage", "Pipeline", "PipelineSet", "Unavailable"]


@dataclass(frozen=True, slots=True)
class Unavailable:
    """A pipeline that is configured and not served."""

    name: str
    model: str
    reason: str
    """Why, and what to do about it."""


@dataclass(frozen=True, slots=True)
class CascadeStage:
    """What looks closer at a detector's detections, and at which of them."""

    name: str
    """Of the attribute."""
    pipeline: str
    """Where its crops run."""
    class_ids: frozenset[int] | None
    """Of the detections; None: all."""
    margin: float
    """Around a box, as a share of its sides."""
    min_size_px: int
    max_crops: int
    """Per frame."""
    min_score: float
    """A class that scores less is no attribute."""
    expected_ns: int
    """What the crops of a frame take, going by the engine as it was when it was loaded."""


@dataclass(frozen=True, slots=True)
class Pipeline:
    """A model that is served under a name. It may be sent to another process."""

    name: str
    model: PreparedModel
    engine: EngineInfo
    default_view: DecodeOptions
    slots: int
    """Batches in flight."""
    cascade: tuple[CascadeStage, ...] = ()
    track: TrackConfig | None = None

    @property
    def engine_name(self) -> str:
        """The engine as answers name it."""
        return f"{self.engine.name}/{self.engine.backend}/{self.engine.precision}/{self.engine.device}"

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

    @classmethod
    def together(cls, sets: Sequence[Self]) -> Self:
        """What devices serve together, at least one: of each pipeline what the first says that serves it."""
        first = sets[0]
        served = {pipeline.name: pipeline for each in reversed(sets) for pipeline in each.ready}
        return cls({name: served.get(name, absent) for name, absent in first.all.items()}, first.default)

    def withdraw(self, name: str, reason: str) -> None:
        """A pipeline that was served is not served any more."""
        if isinstance(served := self.all[name], Pipeline):
            self.all = {**self.all, name: Unavailable(name, served.model.manifest.name, reason)}

    def serves(self, name: str) -> bool:
        """Whether the pipeline of that name is served."""
        return isinstance(self.all.get(name), Pipeline)

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
