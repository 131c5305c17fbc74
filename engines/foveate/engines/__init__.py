"""Engines: compiled, runnable models behind one contract.

No backend's library is imported here, so that a client, a planner or `--help` start at once. For the same reason
`foveate.engines.build` is left out: it imports onnx.
"""

from foveate.engines.build_options import BatchRange, BuildOptions, Target
from foveate.engines.conformance import ConformanceError, check_engine
from foveate.engines.contract import (
    DeviceRows,
    EncodedRow,
    Engine,
    EngineInfo,
    RunTimes,
    Slot,
    TensorSpec,
    host_run_times,
)
from foveate.engines.engine_choice import ChosenEngine, EngineWish, choose_engine, engine_of_key
from foveate.engines.engine_profile import EngineProfile, RunConditions
from foveate.engines.engine_record import EngineRecord, EngineUse
from foveate.engines.engine_store import BuiltEngine, EngineStore
from foveate.engines.errors import (
    BadFrame,
    BudgetTooSmall,
    BuildFailed,
    ChecksumMismatch,
    ConfigError,
    DeviceError,
    DeviceLost,
    DeviceOutOfMemory,
    EngineError,
    EngineUnavailable,
    FoveateError,
    FrameError,
    LimitExceeded,
    ModelError,
    NoRoomForPicture,
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
from foveate.engines.machine import Machine, this_machine
from foveate.engines.onnx_runtime import OnnxRuntimeEngine
from foveate.engines.profile import LatencyProfile, batch_buckets, measure_profile
from foveate.engines.profiling import profile_engine
from foveate.engines.registry import backend_names, engine_class
from foveate.engines.serving_latency import serving_latency
from foveate.engines.torch_engine import TorchEngine

__all__ = [
    "BadFrame",
    "BatchRange",
    "BudgetTooSmall",
    "BuildFailed",
    "BuildOptions",
    "BuiltEngine",
    "ChecksumMismatch",
    "ChosenEngine",
    "ConfigError",
    "ConformanceError",
    "DeviceError",
    "DeviceLost",
    "DeviceOutOfMemory",
    "DeviceRows",
    "EncodedRow",
    "Engine",
    "EngineError",
    "EngineInfo",
    "EngineProfile",
    "EngineRecord",
    "EngineStore",
    "EngineUnavailable",
    "EngineUse",
    "EngineWish",
    "FakeEngine",
    "FoveateError",
    "FrameError",
    "Gate",
    "LatencyProfile",
    "LimitExceeded",
    "Machine",
    "ModelError",
    "NoRoomForPicture",
    "NoSuchPipeline",
    "OnnxRuntimeEngine",
    "Overloaded",
    "PlanMismatch",
    "ProtocolError",
    "RunConditions",
    "RunFailed",
    "RunTimes",
    "ShuttingDown",
    "Slot",
    "StreamTaken",
    "Target",
    "TensorSpec",
    "TorchEngine",
    "UnsupportedFormat",
    "backend_names",
    "batch_buckets",
    "check_engine",
    "choose_engine",
    "engine_class",
    "engine_of_key",
    "host_run_times",
    "measure_profile",
    "profile_engine",
    "serving_latency",
    "this_machine",
]
