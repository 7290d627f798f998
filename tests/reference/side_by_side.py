"""Poquelin, Burn's nn::Lstm and PyTorch in turns, row by row: the table of the documentation.

usage: side_by_side.py POQUELIN [--rounds 5] [--row NAME ...]

POQUELIN is the program, built with --release. Each round runs `poquelin bench` for one row and
bench_pytorch.py for the same; the table has the medians over the rounds. Needs torch.
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import sys

import bench_pytorch

parser = argparse.ArgumentParser()
parser.add_argument("poquelin")
parser.add_argument("--rounds", type=int, default=5)
parser.add_argument("--row", nargs="+", default=bench_pytorch.CPU_ROWS, choices=bench_pytorch.ROWS)
options = parser.parse_args()
pytorch = [sys.executable, str(pathlib.Path(__file__).with_name("bench_pytorch.py"))]


def lines(command):
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return [json.loads(line) for line in output.splitlines()]


print("| row | fused, chars/s | of gemm | PyTorch, chars/s | times PyTorch | times nn::Lstm |")
print("|---|---|---|---|---|---|")
for row in options.row:
    rates, fractions = {}, []
    for _ in range(options.rounds):
        for implementation in ["fused", "burn-nn"]:
            bench = [options.poquelin, "bench", "--json", "--row", row]
            for line in lines([*bench, "--implementation", implementation]):
                rates.setdefault(implementation, []).append(line["chars_per_second"])
                if implementation == "fused":
                    fractions.append(line["gemm_fraction"])
        for line in lines([*pytorch, "--row", row]):
            rates.setdefault("pytorch", []).append(line["chars_per_second"])
    rate = {name: statistics.median(values) for name, values in rates.items()}
    print(
        f"| {row} | {rate['fused']:,.0f} | {statistics.median(fractions):.0%} "
        f"| {rate['pytorch']:,.0f} | {rate['fused'] / rate['pytorch']:.1f} "
        f"| {rate['fused'] / rate['burn-nn']:.1f} |",
        flush=True,
    )
