"""Where the results of cameras go: videos, JSON lines, webhooks and MQTT.

with open_outputs([spec_from_text("results.jsonl"), spec_from_text("mqtt://broker")]) as outputs:
    outputs.put(CameraResult("door", result, picture, time.time()))
"""

from foveate.tools.outputs.camera_result import CameraResult
from foveate.tools.outputs.opening import Outputs, open_outputs
from foveate.tools.outputs.output import Output, OutputCounts
from foveate.tools.outputs.record import record_from_camera_result
from foveate.tools.outputs.specs import OutputSpec, spec_from_text, specs_from_tables

__all__ = [
    "CameraResult",
    "Output",
    "OutputCounts",
    "OutputSpec",
    "Outputs",
    "open_outputs",
    "record_from_camera_result",
    "spec_from_text",
    "specs_from_tables",
]
