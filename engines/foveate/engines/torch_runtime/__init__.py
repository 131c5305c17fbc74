"""What the torch engine is made of: programs read from files, and one runner per kind of device.

Importing this brings in torch: only the torch engine does, when it loads.
"""

from foveate.engines.torch_runtime.cpu import CpuRunner
from foveate.engines.torch_runtime.cuda import CudaRunner, cuda_device
from foveate.engines.torch_runtime.programs import Program, open_program, script_description

__all__ = ["CpuRunner", "CudaRunner", "Program", "cuda_device", "open_program", "script_description"]
