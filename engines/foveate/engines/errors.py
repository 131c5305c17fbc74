"""What can go wrong, as one tree. Every layer raises from it and the gRPC edge maps it to status codes once.

FoveateError
 ├ ConfigError              a setting, a manifest or a command line is wrong: the operator's to mend
 ├ ModelError               a model package cannot be found, fetched, or understood
 │  └ ChecksumMismatch      a fetched file is not the one that the manifest names
 ├ EngineError
 │  ├ EngineUnavailable     the backend, its library or its device is missing here
 │  ├ BuildFailed           a model could not be turned into an engine
 │  ├ PlanMismatch          an engine does not fit this version, device or profile
 │  ├ RunFailed             a batch failed while it ran
 │  └ DeviceError           a call of the device's driver failed
 │     ├ DeviceLost         the device is unusable for this process, until it is started anew
 │     └ DeviceOutOfMemory  there is not as much device memory, or pinned memory, as was asked for
 ├ FrameError               the sender's fault
 │  ├ BadFrame              the bytes are not the picture that they claim to be
 │  └ UnsupportedFormat     a picture or video format that is not served here
 ├ LimitExceeded            the request is over a limit of this service
 ├ NoSuchPipeline           no pipeline of that name is served
 ├ ProtocolError            messages of a stream came in an order, or with values, that have no meaning
 ├ StreamTaken              a stream of that id is open already
 ├ BudgetTooSmall           no frame could ever be answered within this budget
 ├ Overloaded               no room now: retry later or elsewhere
 │  └ NoRoomForPicture      a video's picture was decoded, and there is no room to keep it
 └ ShuttingDown             this server is going away: retry elsewhere

A frame's verdict is a result, not an exception. Messages say what was expected, what came, and what to do.
"""

from __future__ import annotations

__all__ = [
    "BadFrame",
    "BudgetTooSmall",
    "BuildFailed",
    "ChecksumMismatch",
    "ConfigError",
    "DeviceError",
    "DeviceLost",
    "DeviceOutOfMemory",
    "EngineError",
    "EngineUnavailable",
    "FoveateError",
    "FrameError",
    "LimitExceeded",
    "ModelError",
    "NoRoomForPicture",
    "NoSuchPipeline",
    "Overloaded",
    "PlanMismatch",
    "ProtocolError",
    "RunFailed",
    "ShuttingDown",
    "StreamTaken",
    "UnsupportedFormat",
]


class FoveateError(Exception):
    """The root of everything that this project raises on purpose."""


class ConfigError(FoveateError):
    """A setting, a manifest or a command line is wrong."""


class ModelError(FoveateError):
    """A model package cannot be found, fetched or understood."""


class ChecksumMismatch(ModelError):
    """A fetched file is not the one that the manifest names."""


class EngineError(FoveateError):
    """An engine could not be built, loaded or run."""


class EngineUnavailable(EngineError):
    """The backend, its library or its device is missing here; the message names the extra to install."""


class BuildFailed(EngineError):
    """A model could not be turned into an engine."""


class PlanMismatch(EngineError):
    """A built engine does not fit this library version, device or profile."""


class RunFailed(EngineError):
    """A batch failed while it ran; the engine may still serve the next one."""


class DeviceError(EngineError):
    """A call of the device's driver failed; the device itself works on."""


class DeviceLost(DeviceError):
    """The device answers every call of this process with an error: only a new process can use it again."""


class DeviceOutOfMemory(DeviceError):
    """There is not as much device memory, or pinned host memory, as was asked for."""


class FrameError(FoveateError):
    """What a frame's sender did wrong."""


class BadFrame(FrameError):
    """The bytes are not the picture that they claim to be."""


class UnsupportedFormat(FrameError):
    """A picture or video format that is not served here."""


class LimitExceeded(FoveateError):
    """The request is over a limit of this service."""


class NoSuchPipeline(FoveateError):
    """No pipeline of that name is served here."""


class ProtocolError(FoveateError):
    """The messages of a stream came in an order, or with values, that have no meaning."""


class StreamTaken(FoveateError):
    """A stream of that id is open already."""


class BudgetTooSmall(FoveateError):
    """No frame could ever be answered within this budget; the message says the smallest one that can."""


class Overloaded(FoveateError):
    """There is no room now; retry later or elsewhere."""


class NoRoomForPicture(Overloaded):
    """A video's picture was decoded, and there is no room to keep it: only its own frame is lost."""


class ShuttingDown(FoveateError):
    """This server is going away; retry elsewhere."""
