"""Cameras and videos, fed to a server: any number of them, for days, each on its own.

cameras = cameras_from_urls(["rtsp://10.0.0.7/stream1"], pipeline="faces")
WatchSession(cameras, "127.0.0.1:50051", Display(Console(stderr=True))).run()
"""

from foveate.tools.watch.display import Display
from foveate.tools.watch.health import CameraStatus, State
from foveate.tools.watch.session import WatchSession
from foveate.tools.watch.settings import CameraSettings, MotionSettings, cameras_from_urls, load_cameras

__all__ = [
    "CameraSettings",
    "CameraStatus",
    "Display",
    "MotionSettings",
    "State",
    "WatchSession",
    "cameras_from_urls",
    "load_cameras",
]
