"""A camera as a process of its own: GStreamer's RTSP server, with pictures that move.

It is run by the system's Python, which has GStreamer's bindings; see `support.rtsp_cameras`. Stopping the process
freezes the camera, as its connections stay; killing it is pulling the plug.
"""

from __future__ import annotations

import argparse
import os
import sys
import threading

import gi  # type: ignore[import-not-found, import-untyped, unused-ignore]

gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer  # type: ignore  # noqa: E402

__all__: list[str] = []

_ENCODERS = {
    "h264": "x264enc tune=zerolatency speed-preset=ultrafast key-int-max={gop} ! rtph264pay name=pay0 pt=96",
    "h264-b": "x264enc bframes=2 speed-preset=ultrafast key-int-max={gop} ! rtph264pay name=pay0 pt=96",
    "h265": "x265enc tune=zerolatency speed-preset=ultrafast key-int-max={gop} ! rtph265pay name=pay0 pt=96",
    "mjpeg": "jpegenc ! rtpjpegpay name=pay0 pt=26",
}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", default="0")
    parser.add_argument("--codec", choices=_ENCODERS, default="h264")
    parser.add_argument("--size", default="320x240")
    parser.add_argument("--fps", type=int, default=10)
    parser.add_argument("--pattern", default="ball")
    parser.add_argument("--user", default="", help="USER:PASSWORD")
    return parser.parse_args()


def _factory(arguments: argparse.Namespace) -> GstRtspServer.RTSPMediaFactory:
    width, height = arguments.size.split("x")
    caps = f"video/x-raw,format=I420,width={width},height={height},framerate={arguments.fps}/1"
    encoder = _ENCODERS[arguments.codec].format(gop=arguments.fps)
    factory = GstRtspServer.RTSPMediaFactory()
    factory.set_shared(True)
    factory.set_launch(f"( videotestsrc is-live=true pattern={arguments.pattern} ! {caps} ! {encoder} )")
    return factory


def _protect(server: GstRtspServer.RTSPServer, factory: GstRtspServer.RTSPMediaFactory, user: str) -> None:
    """Let those in alone who know the password."""
    name, password = user.split(":")
    token = GstRtspServer.RTSPToken()
    token.set_string("media.factory.role", "viewer")
    auth = GstRtspServer.RTSPAuth()
    auth.add_basic(GstRtspServer.RTSPAuth.make_basic(name, password), token)
    server.set_auth(auth)
    permissions = GstRtspServer.RTSPPermissions()
    permissions.add_permission_for_role("viewer", "media.factory.access", True)
    permissions.add_permission_for_role("viewer", "media.factory.construct", True)
    factory.set_permissions(permissions)


def _end_with_parent() -> None:
    sys.stdin.read()
    os._exit(0)


def main() -> None:
    arguments = _arguments()
    Gst.init(None)
    server = GstRtspServer.RTSPServer()
    server.set_address("127.0.0.1")
    server.set_service(arguments.port)
    factory = _factory(arguments)
    if arguments.user:
        _protect(server, factory, arguments.user)
    server.get_mount_points().add_factory("/camera", factory)
    if not server.attach(None):
        sys.exit(f"no RTSP server on port {arguments.port}")
    threading.Thread(target=_end_with_parent, daemon=True).start()
    print(server.get_bound_port(), flush=True)
    GLib.MainLoop().run()


if __name__ == "__main__":
    main()
