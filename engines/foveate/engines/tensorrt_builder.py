"""ONNX graphs compiled to plans by TensorRT 10 or 11, or by TensorRT for RTX, which needs no GPU to do it."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import onnx

from foveate.engines.build_options import BuildOptions
from foveate.engines.compiled import CompiledEngine
from foveate.engines.compute_capability import compute_capability
from foveate.engines.contract import TensorSpec
from foveate.engines.errors import BuildFailed, EngineUnavailable
from foveate.engines.onnx_graph import graph_specs, refuse_operators
from foveate.engines.tensorrt_library import (
    BuildProgress,
    MessageLog,
    ProgressRelay,
    new_logger,
    new_monitor,
    tensorrt_library,
)

__all__ = ["TensorRtBuilder"]

_REFUSED = {"tensorrt": (), "tensorrt_rtx": ("NonMaxSuppression", "NonZero", "RoiAlign")}
"""Operators that the parser says it supports, and that then fail with a word about plugins."""

_DEFAULT_RTX_CAPABILITY = 80
"""A plan of TensorRT for RTX that names no compute capability is for this one and later ones."""

_ADVICE = (
    ("FP32 GEMM is not supported", "sm_75 multiplies no fp32 matrices: choose fp16, or leave it out of the target"),
    ("HW-specific datatypes", "leave the older GPUs out of the target, or choose fp16"),
    ("OutOfMemory", "raise the workspace limit, or take a smaller batch"),
    ("within workspace limit", "raise the workspace limit, or take a smaller batch"),
)
"""What to do about what the compilers say."""


class TensorRtBuilder:
    """The compiler of a backend, `tensorrt` or `tensorrt_rtx`.

    Raises: EngineUnavailable where its library is missing.
    """

    def __init__(self, backend: str) -> None:
        self._trt = tensorrt_library(backend)
        self._backend = backend

    @property
    def version(self) -> str:
        return str(self._trt.__version__)

    @property
    def measures(self) -> bool:
        """Whether kernels are timed on this machine's GPU while building, so that a timing cache saves time."""
        return self._backend == "tensorrt"

    def target_capabilities(self, options: BuildOptions) -> tuple[str, ...]:
        """The GPUs that a plan of these options is for, as in `EngineRecord.compute_capabilities`.

        Raises: EngineUnavailable if that is this machine's GPU and there is none, BuildFailed for a target
        that this library does not have.
        """
        self._require_target(options)
        least = max(_DEFAULT_RTX_CAPABILITY, options.least_capability)
        match options.target.kind:
            case "listed":
                return options.target.compute_capabilities
            case "default" if self._backend == "tensorrt_rtx":
                return (f"sm_{least}+",)
            case "ampere_plus":
                self._local_capability()  # it compiles nothing without a GPU, whatever the target
                return (f"sm_{least}+",)
            case _:
                return (self._local_capability(),)

    def compile(
        self,
        model: onnx.ModelProto,
        options: BuildOptions,
        *,
        name: str = "",
        timing_cache: bytes = b"",
        on_progress: BuildProgress | None = None,
        cancel: threading.Event | None = None,
    ) -> CompiledEngine:
        """Compile a graph; what `on_progress` raises comes out of here, and setting `cancel` ends the build.

        Two plans of the same graph are not the same bytes.
        Raises: BuildFailed, saying which node or setting is to blame; also if it is cancelled, by Ctrl-C too.
        """
        self.target_capabilities(options)
        inputs, _ = graph_specs(model)
        refuse_operators(model, _REFUSED[self._backend], self._title)
        log = MessageLog()
        # These must live as long as the build: the library keeps no references of its own.
        logger = new_logger(self._trt, log)
        builder = self._new_builder(logger, log)
        network = builder.create_network(self._network_flags())
        parser = self._trt.OnnxParser(network, logger)
        self._parse(parser, network, model, log)
        network.name = name
        config = builder.create_builder_config()
        self._configure(config, options)
        self._add_profile(builder, config, inputs, options, log)
        cache = self._use_timing_cache(config, timing_cache)
        plan = self._build(builder, network, config, log, on_progress, cancel or threading.Event())
        return CompiledEngine(
            plan,
            tuple(self._spec(network.get_input(index)) for index in range(network.num_inputs)),
            tuple(self._spec(network.get_output(index)) for index in range(network.num_outputs)),
            log.bytes_after("Total Weights Memory:") or 0,
            log.bytes_after("Total Activation Memory:"),
            b"" if cache is None else bytes(cache.serialize()),
        )

    @property
    def _title(self) -> str:
        return f"{self._backend} {self.version}"

    def _require_target(self, options: BuildOptions) -> None:
        rtx = self._backend == "tensorrt_rtx"
        kind = options.target.kind
        if rtx and kind in ("ampere_plus", "same_compute_capability"):
            raise BuildFailed(f"tensorrt_rtx has no target {kind}: its default target is for many GPUs already")
        if rtx and options.version_compatible:
            raise BuildFailed("tensorrt_rtx builds no version-compatible engines: leave version_compatible out")
        if not rtx and kind == "listed":
            raise BuildFailed(
                f"tensorrt compiles on the GPU that it is for, so it cannot target {options.target}: build there with "
                "target default, choose ampere_plus, or choose the backend tensorrt_rtx"
            )
        known = self._trt.ComputeCapability.__members__ if rtx else {}
        unknown = [each for each in options.target.compute_capabilities if _enum_name(each) not in known]
        if unknown:
            names = ", ".join(f"sm_{each[2:]}" for each in known if each.startswith("SM"))
            raise BuildFailed(f"{self._title} has no target {', '.join(unknown)}: choose from {names}, or default")

    def _local_capability(self) -> str:
        here = compute_capability()
        if here is None:
            raise EngineUnavailable(
                f"{self._backend} needs an NVIDIA GPU and its driver here for this target: build on the machine that "
                "has it, or choose the backend tensorrt_rtx and the target default or compute capabilities by name"
            )
        return here

    def _network_flags(self) -> int:
        """Types are those of the ONNX graph. From 11 on that is the only way; 10 must be asked for it."""
        if self._backend == "tensorrt" and self.version.startswith("10."):
            return 1 << int(self._trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
        return 0

    def _new_builder(self, logger: Any, log: MessageLog) -> Any:
        try:
            return self._trt.Builder(logger)
        except TypeError as error:  # how the bindings say that the library returned nothing
            raise BuildFailed(f"{self._title} could not start: {log.reason()}") from error

    def _parse(self, parser: Any, network: Any, model: onnx.ModelProto, log: MessageLog) -> None:
        parsed = parser.parse(model.SerializeToString())
        if parser.num_errors:
            raise BuildFailed("; ".join(self._parse_error(parser.get_error(at)) for at in range(parser.num_errors)))
        if not parsed or not network.num_outputs:  # of an empty file the parser says that all went well
            raise BuildFailed(f"{self._title} found no graph with outputs in the model: {log.reason()}")

    def _parse_error(self, error: Any) -> str:
        if not error.node_operator():
            return f"{self._title} cannot read the model: {error.desc()}"
        return (
            f"{self._title} cannot take node {error.node_name() or error.node()!r} of type {error.node_operator()} "
            f"({str(error.code()).rpartition('.')[2]}: {error.desc()}): export the model without it, or with "
            "another opset"
        )

    def _configure(self, config: Any, options: BuildOptions) -> None:
        trt = self._trt
        if options.workspace_mib is not None:
            config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_mib << 20)
        if options.version_compatible:
            config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
        if options.target.kind in ("ampere_plus", "same_compute_capability"):
            level = getattr(trt.HardwareCompatibilityLevel, options.target.kind.upper())
            config.hardware_compatibility_level = level
        if self._backend == "tensorrt_rtx":
            # Else a plan may allocate memory while it runs, and cannot be captured as a CUDA graph.
            config.set_flag(trt.BuilderFlag.REQUIRE_USER_ALLOCATION)
            self._name_capabilities(config, options)

    def _name_capabilities(self, config: Any, options: BuildOptions) -> None:
        """None named is not all of them named: such a plan is also for GPUs that the enumeration cannot name."""
        names = [_enum_name(each) for each in options.target.compute_capabilities]
        if options.target.kind == "this":
            names = ["CURRENT"]
        config.num_compute_capabilities = len(names)
        for index, name in enumerate(names):
            if not config.set_compute_capability(getattr(self._trt.ComputeCapability, name), index):
                raise BuildFailed(f"{self._title} refuses the target {name}: leave it out, or choose default")

    def _add_profile(
        self, builder: Any, config: Any, inputs: tuple[TensorSpec, ...], options: BuildOptions, log: MessageLog
    ) -> None:
        profile = builder.create_optimization_profile()
        batch = options.batch
        for spec in inputs:
            profile.set_shape(spec.name, *((rows, *spec.shape) for rows in (batch.min, batch.opt, batch.max)))
        if config.add_optimization_profile(profile) < 0:
            raise BuildFailed(f"{self._title} refuses batches of {batch}: {log.reason()}")

    def _use_timing_cache(self, config: Any, content: bytes) -> Any:
        """The cache in use; a stale one is refused by the library and begun anew."""
        if not self.measures:
            return None
        for start in (content, b""):
            cache = config.create_timing_cache(start)
            if cache is not None and config.set_timing_cache(cache, False):
                return cache
        return None

    def _build(
        self,
        builder: Any,
        network: Any,
        config: Any,
        log: MessageLog,
        on_progress: BuildProgress | None,
        cancel: threading.Event,
    ) -> bytes:
        relay = ProgressRelay(on_progress, cancel)
        monitor = new_monitor(self._trt, relay)
        config.progress_monitor = monitor
        # On a thread of its own: this one, if it is the main one, would see Ctrl-C only when the build is over.
        with ThreadPoolExecutor(1, "tensorrt-build") as pool:
            try:
                plan = pool.submit(builder.build_serialized_network, network, config).result()
            except KeyboardInterrupt:
                cancel.set()
                plan = None
        if relay.error is not None:
            raise relay.error
        if cancel.is_set():
            raise BuildFailed("cancelled: nothing was kept")
        if plan is None:
            reason = log.reason()
            advice = next((f". {text}" for words, text in _ADVICE if words in reason), "")
            raise BuildFailed(f"{self._title} could not build the engine: {reason}{advice}")
        return bytes(plan)

    def _spec(self, tensor: Any) -> TensorSpec:
        shape = tuple(tensor.shape)
        if shape[:1] != (-1,) or -1 in shape[1:]:
            raise BuildFailed(
                f"{self._title} made {tensor.name!r} {shape}: expected a dynamic batch and otherwise fixed sizes; "
                "prepare the model as a package"
            )
        return TensorSpec(tensor.name, np.dtype(self._trt.nptype(tensor.dtype)), shape[1:])


def _enum_name(capability: str) -> str:
    return f"SM{capability[3:]}"
