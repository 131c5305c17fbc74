"""How much quicker int8 is than fp32 on this CPU with ONNX Runtime, and what it costs in agreement. Prints JSON.

    python tests/bench/int8_speed.py MODEL --pictures FOLDER [--calibration FOLDER] [--propose-exclude] [--runs 60]

Both engines run one frame at a time, in turns, in one process: a machine that changes its speed meanwhile changes it
for both, so the ratio holds where the milliseconds do not. The ratio is the median of the ratios of neighbouring runs.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from foveate.engines import OnnxRuntimeEngine
from foveate.engines.onnx_graph import graph_from_file
from foveate.engines.precision import convert
from foveate.models import ModelStore, PreparedModel, load_package, prepare
from foveate.models.agreement import agreement
from foveate.tools.calibration_pictures import PlacedPicture
from foveate.tools.provenance import provenance, spread
from foveate.tools.verification import PictureSource, answers, worst_nodes

_WARM_UP_RUNS = 5


def main() -> None:
    """Convert, measure, and print one JSON object."""
    asked = _arguments()
    model = prepare(load_package(asked.model), ModelStore())
    calibration, judged = PictureSource(asked.pictures, asked.calibration, asked.limit).split(model)
    exclude = worst_nodes(model, "onnxruntime", calibration) if asked.propose_exclude else ()
    graph = convert(
        graph_from_file(model.onnx_path),
        "int8",
        target="onnxruntime",
        calibration=[each.row for each in calibration],
        exclude=exclude,
    )
    with TemporaryDirectory() as folder:
        path = Path(folder) / "int8.onnx"
        path.write_bytes(graph.SerializeToString())
        fp32_ms, int8_ms = _in_turns(model, (model.onnx_path, path), judged, asked.runs)
        result = agreement(answers(model, model.onnx_path, judged), answers(model, path, judged))
    report = {
        "model": model.manifest.name,
        "excluded_nodes": len(exclude),
        "fp32_ms": spread(fp32_ms),
        "int8_ms": spread(int8_ms),
        "int8_over_fp32": round(statistics.median(b / a for a, b in zip(fp32_ms, int8_ms, strict=True)), 3),
        "agreement": {name: round(value, 4) for name, value in result.figures.items()},
    }
    print(json.dumps(provenance() | report, indent=2))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--pictures", required=True, help="a folder or video to judge by")
    parser.add_argument("--calibration", help="others to find ranges with; default: every other one")
    parser.add_argument("--limit", type=int, default=64, help="most pictures of either kind")
    parser.add_argument("--propose-exclude", action="store_true", help="leave the nodes that lose most in float")
    parser.add_argument("--runs", type=int, default=60)
    return parser.parse_args()


def _in_turns(
    model: PreparedModel, graphs: tuple[Path, Path], pictures: Sequence[PlacedPicture], runs: int
) -> tuple[list[float], list[float]]:
    """Milliseconds of each run of both graphs, on the same pictures."""
    taken: tuple[list[float], list[float]] = ([], [])
    engines = [OnnxRuntimeEngine(graph, name=model.manifest.name, max_batch=1) for graph in graphs]
    with engines[0], engines[1]:
        slots = [engine.new_slot() for engine in engines]
        for number in range(runs + _WARM_UP_RUNS):
            for engine, slot, times in zip(engines, slots, taken, strict=True):
                slot.inputs["pixels"][0] = pictures[number % len(pictures)].row
                times.append(engine.run(slot, 1).total_ns / 1e6)
    return taken[0][_WARM_UP_RUNS:], taken[1][_WARM_UP_RUNS:]


if __name__ == "__main__":
    main()
