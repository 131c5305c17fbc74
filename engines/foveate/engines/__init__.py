"""Engines: compiled, runnable models behind one contract.

No backend's library is imported here, so that a client, a planner or `--help` start at once. For the same reason
`foveate.engines.build` is left out: it imports onnx.
"""

from foveate.engines.build_options import BatchRange, BuildOptions, Target
from foveate.engines.conformance import ConformanceError, check_engine
from foveate.engines.contract import Engine, EngineInfo, RunTimes, Slot, TensorSpec, host_run_times
from foveate.engines.engine_record import EngineRecord, EngineUse
from foveate.engines.engine_store import BuiltEngine, EngineStore
from foveate.engines.errors import (
    BadFrame,
    BudgetTooSmall,
    BuildFailed,
    ChecksumMismatch,
    ConfigError,
    EngineError,
    EngineUnavailable,
    FoveateError,
    FrameError,
    LimitExceeded,
    ModelError,
    NoSuchPipeline,
    Overloaded,
    PlanMismatch,
    ProtocolError,
    RunFailed,
    ShuttingDown,
    StreamTaken,
    UnsupportedFormat,
)
from foveate.engines.fake import FakeEngine, Gate
from foveate.engines.onnx_runtime import OnnxRuntimeEngine
from foveate.engines.profile import LatencyProfile, batch_buckets, measure_profile
from foveate.engines.registry import backend_names, engine_class

__all__ = [
    "BadFrame",
    "BatchRange",
    "BudgetTooSmall",
    "BuildFailed",
    "BuildOptions",
    "BuiltEngine",
    "ChecksumMismatch",
    "ConfigError",
    "ConformanceError",
    "Engine",
    "EngineError",
    "EngineInfo",
    "EngineRecord",
    "EngineStore",
    "EngineUnavailable",
    "EngineUse",
    "FakeEngine",
    "FoveateError",
    "FrameError",
    "Gate",
    "LatencyProfile",
    "LimitExceeded",
    "ModelError",
    "NoSuchPipeline",
    "OnnxRuntimeEngine",
    "Overloaded",
    "PlanMismatch",
    "ProtocolError",
    "RunFailed",
    "RunTimes",
    "ShuttingDown",
    "Slot",
    "StreamTaken",
    "Target",
    "TensorSpec",
    "UnsupportedFormat",
    "backend_names",
    "batch_buckets",
    "check_engine",
    "engine_class",
    "host_run_times",
    "measure_profile",
]
