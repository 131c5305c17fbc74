"""Pictures, and what a frame needs around it: a model that embeds the mean colour, streams, latency models."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from foveate.engines.profile import LatencyProfile
from foveate.models.manifest import HeadSpec, InputSpec, Manifest
from foveate.models.package import PreparedModel
from foveate.service.device_stream import DeviceStream
from foveate.service.frame import PixelFormat, StreamOptions
from foveate.service.prediction import LatencyModel
from foveate.service.stream import CameraStream, StreamRecord

__all__ = [
    "MS",
    "camera_stream",
    "colour_model",
    "device_stream",
    "encoded",
    "latency_model",
    "nv12",
    "plain",
    "smooth_picture",
    "stream_options",
]

MS = 1_000_000
Pixels = NDArray[np.uint8]
_SUFFIXES = {PixelFormat.JPEG: ".jpg", PixelFormat.PNG: ".png", PixelFormat.WEBP: ".webp"}


def smooth_picture(rng: np.random.Generator, width: int, height: int) -> Pixels:
    """Random colours that change slowly from pixel to pixel, so that lossy codecs and resizing keep them."""
    coarse = rng.integers(0, 256, (4, 5, 3)).astype(np.uint8)
    return np.asarray(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC), np.uint8)


def plain(colour: tuple[int, int, int], width: int = 48, height: int = 32) -> Pixels:
    """A picture in one colour."""
    return np.full((height, width, 3), colour, np.uint8)


def encoded(picture: Pixels, kind: PixelFormat, *parameters: int) -> bytes:
    """An RGB picture (or an RGBA one) in a picture format; the parameters are those of `cv2.imencode`."""
    order = cv2.COLOR_RGBA2BGRA if picture.shape[2] == 4 else cv2.COLOR_RGB2BGR
    done, data = cv2.imencode(_SUFFIXES[kind], cv2.cvtColor(picture, order), parameters)
    assert done
    return data.tobytes()


def nv12(picture: Pixels) -> bytes:
    """An RGB picture with even sides as a Y plane and one of interleaved U and V."""
    height, width = picture.shape[:2]
    planes = np.asarray(cv2.cvtColor(picture, cv2.COLOR_RGB2YUV_I420), np.uint8).reshape(-1)
    luma, chroma = planes[: width * height], planes[width * height :].reshape(2, -1)
    return luma.tobytes() + chroma.T.tobytes()


def colour_model(
    width: int = 32,
    height: int = 24,
    resize: Literal["letterbox", "stretch", "center_crop"] = "stretch",
    **fields: Any,
) -> PreparedModel:
    """A model without a graph, of the task `embed`: its answer is the row `embedding` of an engine's output."""
    manifest = Manifest(
        name="colour",
        title="The mean colour",
        task="embed",
        source="file:none",
        input=InputSpec(width_px=width, height_px=height, resize=resize, **fields),
        head=HeadSpec(kind="embedding", outputs={"embedding": "none"}, normalize=False),
        labels=("colour",),
        licence="Apache-2.0",
        homepage="none",
    )
    return PreparedModel(manifest=manifest, labels=("colour",), onnx_path=Path("none"), key="none")


def latency_model(latency_ns: Callable[[int], float], buckets: tuple[int, ...] = (1, 2, 4, 8, 16, 32)) -> LatencyModel:
    """A fresh latency model over a profile that a function of the batch size gives."""
    profiled = tuple(int(latency_ns(batch)) for batch in buckets)
    return LatencyModel(LatencyProfile(buckets, profiled, profiled))


def stream_options(budget_ms: float = 100.0, **fields: Any) -> StreamOptions:
    """The options of a stream of the pipeline `colour`."""
    return StreamOptions(pipeline="colour", budget_ns=int(budget_ms * MS), **fields)


def camera_stream(stream_id: str = "camera", window: int = 32, **fields: Any) -> CameraStream:
    """A stream; the fields are those of `stream_options`."""
    return CameraStream(StreamRecord(stream_id, f"token of {stream_id}"), stream_options(**fields), window)


def device_stream(stream_id: str = "camera", **fields: Any) -> DeviceStream:
    """The same as a device knows it."""
    return DeviceStream(stream_id, stream_options(**fields))
