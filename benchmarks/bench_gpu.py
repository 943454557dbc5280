"""What a GPU is worth: drawing scenarios by a bundle's network, and steps of training.

    python benchmarks/bench_gpu.py                              both, on a machine with a GPU
    python benchmarks/bench_gpu.py --piece train                steps of training alone
    python benchmarks/bench_gpu.py --bundles FOLDER             float32, float16 and bfloat16 in FOLDER
    python benchmarks/bench_gpu.py --only-bundles FOLDER        make those, where there need be no GPU

Drawing needs onnxruntime-gpu (extra `gpu`), training torch for CUDA. Each piece writes its own file,
benchmarks/results/gpu_PIECE.json.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import subprocess
import sys
from typing import Any

import numpy as np
import torch
from scenarios_bench import measure

ROOT = pathlib.Path(__file__).resolve().parent
RESULTS = ROOT / "results"
PIECES = ("draw", "train")
PRECISIONS = ("float32", "float16", "bfloat16")
CONTEXT = "context.npy"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--piece", default=",".join(PIECES), type=lambda text: text.split(","))
    parser.add_argument("--bundles", type=pathlib.Path, default=ROOT.parent / "runs" / "gpu")
    parser.add_argument("--only-bundles", type=pathlib.Path)
    parser.add_argument("--results", type=pathlib.Path, default=RESULTS)
    options = parser.parse_args()
    if options.only_bundles is not None:
        make_bundles(options.only_bundles)
        return
    if not torch.cuda.is_available():
        sys.exit("torch finds no GPU: run it where there is one")
    for piece in options.piece:
        found = _draw(options.bundles) if piece == "draw" else _train()
        options.results.mkdir(parents=True, exist_ok=True)
        path = options.results / f"gpu_{piece}.json"
        path.write_text(json.dumps({**_machine(), **found}, indent=1) + "\n", encoding="utf-8")


def make_bundles(folder: pathlib.Path) -> None:
    """The teacher of the scenario benchmark in each precision, and the features of a held-out day."""
    from scenarios_bench import models

    from hedgecast.registry.half import half_bundle

    whole, days = models.bundle(models.TEACHER), models.held_out_days()
    folder.mkdir(parents=True)
    for precision in PRECISIONS:
        if precision == "float32":
            (folder / precision).symlink_to(whole.folder.resolve())
        else:
            half_bundle(whole, days.torch_context[:32], precision, folder / precision)
    np.save(folder / CONTEXT, days.context[:1])


def _draw(bundles: pathlib.Path) -> dict[str, Any]:
    from gpu import draws

    if not (bundles / CONTEXT).is_file():
        make_bundles(bundles)
    return draws.measured({name: bundles / name for name in PRECISIONS}, np.load(bundles / CONTEXT))


def _train() -> dict[str, Any]:
    """Each row in a process of its own."""
    from decisions import training_cost

    rows = []
    for index in range(len(training_cost.SETTINGS)):
        for device in ("cuda", "cpu") if not training_cost.SETTINGS[index].heavy else ("cuda",):
            command = [sys.executable, str(ROOT / "decisions" / "training_cost.py"), str(index), device]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            last = (done.stdout if done.returncode == 0 else done.stderr).strip().splitlines()[-1]
            row = json.loads(last) if done.returncode == 0 else {"index": index, "failed": last}
            print(row, file=sys.stderr, flush=True)
            rows.append({"device": device, **row})
    return {"rows": rows}


def _machine() -> dict[str, Any]:
    return {**measure.where(), "gpu": torch.cuda.get_device_name(0), "cuda": torch.version.cuda}


if __name__ == "__main__":
    main()
