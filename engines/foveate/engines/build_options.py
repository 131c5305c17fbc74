"""What an engine is to be: backend, precision, batch and the GPUs that it is for."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, Self, get_args

from foveate.engines.errors import BuildFailed, ConfigError

__all__ = [
    "BUILD_BACKENDS",
    "BUILD_CALIBRATED_PRECISIONS",
    "BUILD_PRECISIONS",
    "BatchRange",
    "BuildOptions",
    "Precision",
    "Target",
]

BUILD_BACKENDS = ("onnxruntime", "tensorrt", "tensorrt_rtx")
"""The backends that engines can be built for."""

Precision = Literal["fp32", "fp16", "bf16", "int8", "fp8"]
"""What a network computes in."""

BUILD_PRECISIONS: tuple[str, ...] = get_args(Precision)

BUILD_CALIBRATED_PRECISIONS = ("int8", "fp8")
"""Those that need pictures to find the ranges of values."""

_LEAST_CAPABILITY = {"bf16": 80, "fp8": 89}
"""The first compute capability with arithmetic of that precision; older ones are refused by the compiler."""

_TargetKind = Literal["default", "this", "ampere_plus", "same_compute_capability", "listed"]
_CAPABILITY = re.compile(r"sm_([1-9]\d{1,2})")


@dataclass(frozen=True, slots=True)
class BatchRange:
    """The batch sizes that an engine takes, and the one that it is tuned for."""

    min: int = 1
    opt: int = 8
    max: int = 16

    def __post_init__(self) -> None:
        if not 1 <= self.min <= self.opt <= self.max:
            raise ConfigError(f"a batch range needs 1 <= min <= opt <= max, not {self}")

    @classmethod
    def parse(cls, text: str) -> Self:
        """``MIN:OPT:MAX``, or one number as 1:N:N. Raises: ConfigError for anything else."""
        try:
            numbers = [int(part) for part in text.split(":")]
        except ValueError:
            numbers = []
        if len(numbers) == 1:
            return cls(1, numbers[0], numbers[0])
        if len(numbers) != 3:
            raise ConfigError(f"a batch is MIN:OPT:MAX, such as 1:8:16, or one number, not {text!r}")
        return cls(*numbers)

    def __str__(self) -> str:
        return f"{self.min}:{self.opt}:{self.max}"


@dataclass(frozen=True, slots=True)
class Target:
    """Which GPUs an engine is for.

    default: all that the library takes by itself, for TensorRT the GPU of this machine. this: the GPU of this
    machine. ampere_plus, same_compute_capability: TensorRT's two levels of hardware compatibility. listed: the
    compute capabilities by name.
    """

    kind: _TargetKind = "default"
    compute_capabilities: tuple[str, ...] = ()
    """Of ``listed``: ascending, such as ``("sm_80", "sm_89")``."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """One of the kinds by name, or ``sm_80,sm_89``. Raises: ConfigError for anything else."""
        kinds = [kind for kind in get_args(_TargetKind) if kind != "listed"]
        if text in kinds:
            return cls(kind=text)  # type: ignore[arg-type]  # one of the literals, as was just seen
        names = {name.strip() for name in text.split(",")}
        if not all(_CAPABILITY.fullmatch(name) for name in names):
            raise ConfigError(
                f"a target is one of {', '.join(kinds)}, or compute capabilities such as sm_80,sm_89, not {text!r}"
            )
        return cls("listed", tuple(sorted(names, key=lambda name: int(name[3:]))))

    def __str__(self) -> str:
        return ",".join(self.compute_capabilities) or self.kind


@dataclass(frozen=True, slots=True)
class BuildOptions:
    """All that a person chooses about an engine. Raises: ConfigError, BuildFailed for what no engine can be."""

    backend: str = "tensorrt_rtx"
    precision: str = "fp32"
    batch: BatchRange = BatchRange()
    target: Target = Target()
    version_compatible: bool = False
    """Also for newer versions of the library, at some cost in speed; TensorRT only."""
    workspace_mib: int | None = None
    """Most device memory that one layer may take for scratch; None leaves it to the library."""
    exclude: tuple[str, ...] = ()
    """Nodes that stay float where the precision is int8 or fp8."""

    def __post_init__(self) -> None:
        _require_one_of("backend", self.backend, BUILD_BACKENDS)
        _require_one_of("precision", self.precision, BUILD_PRECISIONS)
        if self.workspace_mib is not None and self.workspace_mib < 1:
            raise ConfigError(f"workspace_mib must be at least 1, or left out, not {self.workspace_mib}")
        if self.backend == "onnxruntime" and (self.target != Target() or self.version_compatible):
            raise ConfigError("an onnxruntime engine is for no GPU in particular: leave the target out")
        if self.exclude and not self.quantised:
            raise ConfigError(f"nodes are excluded from int8 or fp8 only, not from {self.precision}")
        self._require_arithmetic()

    @property
    def quantised(self) -> bool:
        """Whether pictures are needed to find the ranges of values."""
        return self.precision in BUILD_CALIBRATED_PRECISIONS

    @property
    def graph_target(self) -> str:
        """What the converted graph is for, as `precision.convert` takes it."""
        return "onnxruntime" if self.backend == "onnxruntime" else "tensorrt"

    @property
    def least_capability(self) -> int:
        """The first compute capability, as in ``sm_80``, that can run this precision; 0: any."""
        return _LEAST_CAPABILITY.get(self.precision, 0)

    def _require_arithmetic(self) -> None:
        too_old = [name for name in self.target.compute_capabilities if int(name[3:]) < self.least_capability]
        if too_old:
            raise BuildFailed(
                f"{', '.join(too_old)} has no {self.precision} arithmetic, which begins with "
                f"sm_{self.least_capability}: leave it out of the target, or choose fp16"
            )


def _require_one_of(field: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ConfigError(f"no {field} is called {value!r}: choose one of {', '.join(choices)}")
