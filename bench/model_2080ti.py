"""Modelled, not measured: Face2Face^rho's online step on an RTX 2080 Ti.

    python bench/model_2080ti.py [--quick]

Every launch of the inference form takes the longer of moving its bytes and of its arithmetic, and a gap to the next
one. Bytes and multiplications are counted from the network itself (bench/launches.py). How much of the card's rates a
kernel reaches comes from the newest results of a GPU under bench/results, and where there are none is assumed.
"""

import argparse
import json
import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timing
from launches import Launch, frame

SIZES = (256, 512, 1024, 1440, 2048)
STAGES = ("rasterize", "motion", "warp", "decode", "deliver")
# Memory: NVIDIA's data sheet. Tensor cores: measured by a third party on a 2080 Ti with its clocks unlocked
# (KohakuBlueleaf/KohakUnlock, docs/RESULTS.md, float16 with float32 and with float16 accumulation; two levels promote
# every few steps to float32). Ordinary cores: 4352 lanes at 1.545 GHz, two halves each, a multiply and an add.
MEMORY = 616e9  # bytes/s
TENSOR = {"float32": 59.9e12, "two-level float16": 119.5e12}  # operations/s, by accumulation
HALF2 = 4352 * 1.545e9 * 4
# Dense float16 of GPUs whose results may be here, operations/s (NVIDIA/cudnn-frontend, pull request 650).
PEAKS = {"H200": 989.5e12, "H100": 989.5e12}


@dataclass(frozen=True)
class Shares:
    """How much of the card's rates kernels reach, and where that is from."""

    memory: float = 0.82
    tensor: float = 0.5
    half2: float = 0.35
    gap_us: float = 1.5  # from kernel to dependent kernel inside a graph
    source: str = "assumed"


def measured_shares(results: Path = timing.RESULTS) -> Shares:
    """From the newest folder of a GPU's results: bench/results/gpu/<date>, or else bench/results/cuda.

    Of the larger half of an op's rows (less is launching): `of a copy`, and, for ops that say their GMAC, the share of
    the GPU's peak in float16. A copy itself reaches the assumed share of the data sheet's rate.
    """
    assumed = Shares()
    folders = [*sorted(results.glob("gpu/*"), reverse=True), results / "cuda"]
    files = next((found for folder in folders if (found := sorted(folder.glob("*.json")))), [])
    copies, products, gpu = [], [], ""
    for path in files:
        result = json.loads(path.read_text(encoding="utf-8"))
        gpu = result["environment"]["gpu"] or gpu
        peak = next((rate for name, rate in PEAKS.items() if name in gpu), None)
        rows = [row for row in result["rows"] if isinstance(row, dict) and "ours ms" in row]
        if peak:
            matrices = _larger((row for row in rows if row.get("dtype") == "float16"), "GMAC")
            products += [2e9 * row["GMAC"] / (row["ours ms"] * 1e-3) / peak for row in matrices]
        moving = _larger((row for row in rows if "GMAC" not in row), "MB")
        copies += [min(float(row["of a copy"].rstrip("%")) / 100, 1.0) for row in moving]
    if not copies and not products:
        return assumed
    memory = assumed.memory * statistics.median(copies) if copies else assumed.memory
    tensor = statistics.median(products) if products else assumed.tensor
    parts = [word for word, found in (("memory", copies), ("tensor cores", products)) if found]
    source = f"{' and '.join(parts)} from results of {gpu} in {files[0].parent.name}, the rest assumed"
    return Shares(memory, tensor, assumed.half2, assumed.gap_us, source)


def _larger(rows: Iterable[dict[str, Any]], key: str) -> list[dict[str, Any]]:
    """The larger half of the rows that have a key."""
    ordered = sorted((row for row in rows if key in row), key=lambda row: row[key])
    return ordered[len(ordered) // 2 :]


def seconds(launch: Launch, accumulation: str, shares: Shares) -> float:
    """Modelled time of one launch, its gap included; tensor and ordinary cores take turns in a tile."""
    memory = (launch.reads + launch.writes) / (MEMORY * shares.memory)
    tensor = 2 * launch.tensor / (TENSOR[accumulation] * shares.tensor)
    depthwise = 2 * launch.depthwise / (HALF2 * shares.half2)
    return max(memory, tensor + depthwise) + shares.gap_us * 1e-6


def row(size: int, accumulation: str, launches: list[Launch], shares: Shares) -> dict[str, Any]:
    """One line of the table: milliseconds by stage, their sum, and what was counted."""
    ms = dict.fromkeys(STAGES, 0.0)
    for launch in launches:
        ms[launch.stage] += seconds(launch, accumulation, shares) * 1e3
    total = sum(ms.values())
    return {
        "size": size,
        "accumulation": f"{accumulation}, modelled",
        **ms,
        "modelled ms": total,
        "modelled frames/s": round(1e3 / total),
        "MB": sum(x.reads + x.writes for x in launches) / 1e6,
        "GMAC": sum(x.multiplications for x in launches) / 1e9,
        "launches": len(launches),
    }


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--quick", action="store_true", help="256 alone; writes nothing")
    quick, shares = arguments.parse_args().quick, measured_shares()
    counted = {size: frame(size) for size in (SIZES[:1] if quick else SIZES)}
    rows = [row(size, name, launches, shares) for size, launches in counted.items() for name in TENSOR]
    columns = ["size", "accumulation", *STAGES, "modelled ms", "modelled frames/s", "MB", "GMAC", "launches"]
    print(timing.table(rows, columns))
    if quick:
        return
    notes = (
        "**Modelled, nobody has measured it.** float16, keypoints to uint8 picture on the device, the motion network "
        "at the rendering's size. Bytes and multiplications are counted from the inference form. Rates: memory 616 "
        "GB/s, tensor cores 59.9 and 119.5 TFLOP/s (float32 and float16 accumulation, measured by a third party: "
        f"KohakUnlock), ordinary cores 26.9 TFLOP/s in halves. Shares of them that kernels reach: {shares.memory:.0%}, "
        f"{shares.tensor:.0%}, {shares.half2:.0%}, and {shares.gap_us} us from kernel to kernel ({shares.source}). "
        "Stages in ms, one after another; that small maps leave multiprocessors idle is not in it, so that small sizes "
        "look better than they are."
    )
    payload = {
        "title": "RTX 2080 Ti, modelled: the online step",
        "modelled": True,
        "columns": columns,
        "rows": rows,
        "notes": notes,
        "plot": {"x": "size", "y": "modelled ms", "series": "accumulation"},
        "launches at 1440": [vars(launch) for launch in counted[1440]],
    }
    timing.write("model_2080ti", payload)


if __name__ == "__main__":
    main()
