"""How soon the command line answers and a server is ready, with the models in the store. Prints JSON.

    python tests/bench/startup.py [--runs 5]

`help` is `foveate --help` from process start to exit; `ready` is `foveate serve` from process start to the line that
says where it listens, with every pipeline whose model the store holds. The first serve of a model measures its
profile; the runs counted here find it kept.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

from foveate.tools.provenance import provenance, spread

_FOVEATE = str(Path(sys.executable).with_name("foveate"))


def main() -> None:
    """Measure, and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    runs = parser.parse_args().runs
    _, line = _ready_s()
    help_s = [_help_s() for _ in range(runs)]
    ready_s = [_ready_s()[0] for _ in range(runs)]
    print(json.dumps(provenance() | {"served": line, "help_s": spread(help_s), "ready_s": spread(ready_s)}, indent=2))


def _help_s() -> float:
    started = time.monotonic()
    subprocess.run([_FOVEATE, "--help"], check=True, capture_output=True)
    return time.monotonic() - started


def _ready_s() -> tuple[float, str]:
    started = time.monotonic()
    arguments = [_FOVEATE, "serve", "--listen", "127.0.0.1:0"]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        line = process.stdout.readline().strip()
        took = time.monotonic() - started
        process.terminate()
    if not line:
        sys.exit("error: the server did not start: see its message above")
    return took, line


if __name__ == "__main__":
    main()
