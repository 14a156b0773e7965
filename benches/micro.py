#!/usr/bin/env python3
"""Keeps what `cargo bench --bench micro` measured as the baseline, or compares with it.

    python3 benches/micro.py record|compare

Machines differ and are noisy: of a step's samples the fastest counts, as neighbours only ever slow one down, and every figure
is taken as a multiple of `decode` in the same run. Exit code 1 when one has become more than a third slower by that measure.
"""
import json
import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
BASELINE = ROOT / "benches/micro-baseline.json"
MEASURED = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "criterion/micro"
UNIT = "decode"
TOLERANCE = 4 / 3


def measured():
    """Nanoseconds an element in the fastest sample, by name."""
    found = {}
    for folder in sorted(MEASURED.iterdir()):
        samples, benchmark = folder / "new/sample.json", folder / "new/benchmark.json"
        if samples.exists():
            elements, taken = json.loads(benchmark.read_text())["throughput"]["Elements"], json.loads(samples.read_text())
            found[folder.name] = min(time / count for time, count in zip(taken["times"], taken["iters"])) / elements
    return found


def main():
    now = measured()
    if sys.argv[1:] == ["record"]:
        commit = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, text=True, capture_output=True, check=True)
        cpu = next(line for line in open("/proc/cpuinfo") if line.startswith("model name")).split(":")[1].strip()
        kept = {"commit": commit.stdout.strip(), "cpu": cpu, "cores": os.cpu_count(), "ns": {name: round(ns, 1) for name, ns in now.items()}}
        BASELINE.write_text(json.dumps(kept, indent=1) + "\n")
        return 0
    if sys.argv[1:] != ["compare"]:
        print(__doc__)
        return 2
    kept = json.loads(BASELINE.read_text())["ns"]
    slower = 0
    print("| step | ns an element | baseline | against the baseline, by decode |\n|---|---|---|---|")
    for name, ns in now.items():
        if name in kept:
            ratio = (ns / now[UNIT]) / (kept[name] / kept[UNIT])
            slower += ratio > TOLERANCE
            print(f"| {name} | {ns:.0f} | {kept[name]:.0f} | {ratio:.2f} |")
        else:
            print(f"| {name} | {ns:.0f} | - | - |")
    return int(slower > 0)


if __name__ == "__main__":
    sys.exit(main())
