"""CUDA, as much of it as the project uses. No CUDA library is imported before a device is opened."""

from foveate.engines.cuda.compile import KernelCache, compile_cubin
from foveate.engines.cuda.device import (
    Device,
    DeviceBuffer,
    Event,
    Graph,
    Kernel,
    Module,
    PinnedBuffer,
    PooledBuffer,
    RegisteredMemory,
    Stream,
)
from foveate.engines.cuda.layer import CudaLayer
from foveate.engines.cuda.pictures import DevicePicture, PictureKernels, PictureLayout, Rectangle

__all__ = [
    "CudaLayer",
    "Device",
    "DeviceBuffer",
    "DevicePicture",
    "Event",
    "Graph",
    "Kernel",
    "KernelCache",
    "Module",
    "PictureKernels",
    "PictureLayout",
    "PinnedBuffer",
    "PooledBuffer",
    "Rectangle",
    "RegisteredMemory",
    "Stream",
    "compile_cubin",
]
