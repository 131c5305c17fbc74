"""The engine process of a service whose device decodes video, as far as a CPU can stand in for one.

The environment says how long a batch takes, and for how many streams at a time the device has a decoder.
"""

from __future__ import annotations

import os

from foveate.service import engine_process
from support.cpu_video import CpuVideoDecoders
from support.decoding_engine import DecodingEngine
from support.service import fake_engine, fake_opening

__all__: list[str] = []


if __name__ == "__main__":
    latency_s = float(os.environ.get("FAKE_LATENCY_S", "0"))
    video = CpuVideoDecoders()
    video.most_streams = int(os.environ.get("FAKE_VIDEO_STREAMS", "100"))
    engine_process.main(fake_opening(fake_engine(latency_s, kind=DecodingEngine), max(1.0, latency_s * 1e3), {}, video))
