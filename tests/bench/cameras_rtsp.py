"""How `foveate watch` does with RTSP cameras of which some die, freeze and lie, for as long as you like. Prints JSON.

    PYTHONPATH=tests python tests/bench/cameras_rtsp.py [--minutes 10] [--round-s 60]

Five real RTSP servers on loopback, of different codec, size and rate, each a process of its own. In each round the
first is killed and started again 5 s later, the second is frozen for 10 s, and what the third sends is damaged for
10 s; two are left alone. `foveate watch` and the service, over an engine that waits 5 ms a frame, are processes of
their own too, and what they hold is sampled: growth is the Theil-Sen slope of the samples after the first round.

on_time_share is over the pictures that were sent; not_superseded leaves those out in whose place the server took a
newer one, as it does when a busy machine lets two of one camera come together. back_s is from the moment at which the
killed camera could be connected again; at_most_s is the longest back-off that could have been running then, and 2 s.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from foveate.tools.bench.fake_service import FAKE_PIPELINE, FakeSpec
from foveate.tools.bench.growth import growth
from foveate.tools.bench.served import Served, Usage, serving
from foveate.tools.provenance import provenance, spread
from foveate.tools.watch.reader import BACK_OFF
from support.rtsp_cameras import Garbler, RtspCamera, garbled, rtsp_camera
from support.waiting import until

_CAMERAS = {
    "killed": ("h264", "640x480", 15),
    "frozen": ("h265", "352x288", 10),
    "garbled": ("h264", "320x240", 10),
    "steady-mjpeg": ("mjpeg", "320x240", 12),
    "steady-h264": ("h264", "960x540", 15),
}
_TIMEOUT_S = 3.0
_BUDGET_MS = 500
_SAMPLE_EVERY_S = 2.0


class Watch:
    """`foveate watch` as a process, and what it says of itself."""

    def __init__(self, process: subprocess.Popen[str], state: Path) -> None:
        self.process = process
        self._state = state
        self._lives: list[tuple[float, str]] = []
        self.said: list[str] = []
        self._reading = threading.Thread(target=self._read)
        self._reading.start()

    def cameras(self) -> dict[str, dict[str, Any]]:
        """As of at most two seconds ago."""
        return {camera["name"]: camera for camera in json.loads(self._state.read_text())["cameras"]}

    def is_live_since(self, name: str, moment: float) -> float | None:
        """When it was said to be live, if that was after a moment on `time.monotonic()`."""
        return next((at for at, camera in self._lives if camera == name and at > moment), None)

    def join(self) -> None:
        self._reading.join()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.said.append(line.rstrip())
            _, _, rest = line.partition(" ")
            name, _, state = rest.strip().partition(": ")
            if state == "live":
                self._lives.append((time.monotonic(), name))


@contextmanager
def watching(urls: dict[str, str], server: str) -> Iterator[Watch]:
    """Watch until the block ends."""
    with tempfile.TemporaryDirectory() as folder:
        cameras, state = Path(folder) / "cameras.toml", Path(folder) / "state.json"
        common = f'pipeline = "{FAKE_PIPELINE}"\nbudget_ms = {_BUDGET_MS}\ntimeout_s = {_TIMEOUT_S}\n'
        cameras.write_text(
            "".join(f'[[camera]]\nname = "{name}"\nurl = "{url}"\n{common}' for name, url in urls.items())
        )
        arguments = [sys.executable, "-m", "foveate.tools.cli", "watch", "--cameras", str(cameras)]
        arguments += ["--server", server, "--state", str(state)]
        with subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True) as process:
            watch = Watch(process, state)
            try:
                until(lambda: all(watch.is_live_since(name, 0.0) for name in urls), "all cameras live", 60)
                yield watch
            finally:
                process.terminate()
                process.wait(20)
                watch.join()


class Sampler:
    """Samples what processes hold, until it is stopped."""

    def __init__(self, **served: Served) -> None:
        self._served = served
        self._stop = threading.Event()
        self.samples: dict[str, list[tuple[float, Usage]]] = {name: [] for name in served}
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(_SAMPLE_EVERY_S):
            for name, served in self._served.items():
                if (usage := served.usage()) is not None:
                    self.samples[name].append((time.monotonic(), usage))


def one_round(
    watch: Watch, killed: RtspCamera, frozen: RtspCamera, garbler: Garbler, ends_at: float
) -> dict[str, float]:
    """Disturb three cameras, see the killed one back, and wait for the round's end."""
    pause = threading.Event()
    began, before = time.monotonic(), watch.cameras()
    killed.kill()
    frozen.freeze()
    garbler.is_on = True
    pause.wait(5.0)
    killed.start()
    ready = time.monotonic()
    until(lambda: watch.is_live_since("killed", ready), "the killed camera", 30)
    back_s = (watch.is_live_since("killed", ready) or ready) - ready
    pause.wait(max(0.0, began + 10.0 - time.monotonic()))
    frozen.thaw()
    garbler.is_on = False
    pause.wait(max(0.0, ends_at - time.monotonic()))
    attempts = watch.cameras()["killed"]["reconnects"] - before["killed"]["reconnects"]
    longest_s = min(BACK_OFF.longest_delay_s, BACK_OFF.first_delay_s * 2 ** (attempts - 1))
    return {"back_s": round(back_s, 2), "at_most_s": longest_s + 2.0, "attempts": attempts}


def on_time_share(camera: dict[str, Any]) -> dict[str, float]:
    """Of all that were sent, and of those that no newer one superseded."""
    answered, superseded = sum(camera["verdicts"].values()), camera["verdicts"].get("superseded", 0)
    return {
        "of_sent": round(camera["on_time"] / max(1, answered), 5),
        "not_superseded": round(camera["on_time"] / max(1, answered - superseded), 5),
    }


def grown(samples: list[tuple[float, Usage]], after: float) -> dict[str, Any]:
    """Slopes per hour of what a process holds, with their bounds, and its last sample."""
    kept = [(at, usage) for at, usage in samples if at >= after]
    slopes = {}
    for field in ("memory_bytes", "threads", "descriptors"):
        slope = growth([(at, float(getattr(usage, field))) for at, usage in kept])
        unit = 3600 / (1 << 20 if field == "memory_bytes" else 1)
        values = (slope.per_s, slope.lowest_per_s, slope.highest_per_s)
        slopes["memory_mb" if unit != 3600 else field] = [round(value * unit, 2) for value in values]
    (first_at, first), (last_at, last) = kept[0], kept[-1]
    return {
        "per_hour_and_bounds": slopes,
        "memory_mb_every_minute": [
            round(usage.memory_bytes / (1 << 20), 2) for _, usage in kept[:: round(60 / _SAMPLE_EVERY_S)]
        ],
        "first": asdict(first),
        "last": asdict(last),
        "cores": round((last.cpu_s - first.cpu_s) / (last_at - first_at), 3),
    }


def main() -> None:
    """Measure, and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--round-s", type=float, default=60.0)
    asked = parser.parse_args()
    load_before = os.getloadavg()
    with ExitStack() as stack:
        service = stack.enter_context(serving("foveate.tools.bench.fake_service", FakeSpec(alpha_ms=5.0).to_json()))
        cameras = {
            name: stack.enter_context(rtsp_camera(codec=codec, size=size, fps=fps))
            for name, (codec, size, fps) in _CAMERAS.items()
        }
        garbler = stack.enter_context(garbled(cameras["garbled"]))
        urls = {name: camera.url for name, camera in cameras.items()} | {"garbled": garbler.url}
        watch = stack.enter_context(watching(urls, service.address))
        sampler = Sampler(watch=Served("", watch.process.pid), service=service)
        stack.callback(sampler.stop)
        began = time.monotonic()
        rounds = [
            one_round(watch, cameras["killed"], cameras["frozen"], garbler, began + (number + 1) * asked.round_s)
            for number in range(max(2, round(asked.minutes * 60 / asked.round_s)))
        ]
        took_s = time.monotonic() - began
        sampler.stop()
        ended = watch.cameras()
    report = provenance() | {
        "minutes": round(took_s / 60, 1),
        "cameras": {name: " ".join(map(str, what)) for name, what in _CAMERAS.items()},
        "load_average": {"before": load_before, "after": os.getloadavg()},
        "on_time_share": {name: on_time_share(each) for name, each in ended.items()},
        "came_back": {
            "back_s": spread([each["back_s"] for each in rounds]),
            "within": all(each["back_s"] <= each["at_most_s"] for each in rounds),
            "rounds": rounds,
        },
        "counts": ended,
        "held": {name: grown(samples, began + asked.round_s) for name, samples in sampler.samples.items()},
    }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
