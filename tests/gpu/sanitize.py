"""Run compute-sanitizer over a few awkward tests of every family of kernels: a script, no test.

    python tests/gpu/sanitize.py [FAMILY ...]

Prints a table of memcheck's and racecheck's findings and exits with 1 where there are any. Its
logs go to csbench-results/sanitize/; csbench compiles kernels with line numbers, so they name the
line. The tools slow kernels down tenfold and more: a family that takes longer than LIMIT_S says so.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import Queue
from typing import NamedTuple

from tabulate import tabulate

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
LOGS = Path("csbench-results/sanitize")
LIMIT_S = 240
TOOLS = ("memcheck", "racecheck")
CORES = 2  # for each of the runs side by side

# Kernel family -> test file, and which of its tests (pytest -k). csbench's own kernels: racecheck
# finds races in cuSPARSELt's sm90_xmma_sparse_gemm, and no capture succeeds under it.
SELECTION = {
    "block/block.cu": ("test_block.py", "test_every_tile and shares and (fp32 or fp16)"),
    "block/planes.cu": ("test_block_stem.py", "test_stem and 5 and fp32"),
    "cutlass/block.cu": ("test_block_cutlass.py", "test_every_tile and ragged and (fp32 or fp16)"),
    "cutlass/persistent.cu": ("test_block_cutlass.py", "test_persistent and ragged"),
    "gather/conv.cu": ("test_gather.py", "test_every_plan and 80x48x3x3 and (fp32 or fp16)"),
    "gather/conv.cu, windows": ("test_gather.py", "test_every_plan and 160x70 and fp32"),
    # By wgmma, with a warp that only copies.
    "gather/conv.cu, together": ("test_gather.py", "test_four_warps and True"),
    "gather/conv.cu, unfolding": ("test_gather.py", "test_every_plan_leaves and fp16"),
    "gather/io.cu, window.cu": (
        "test_gather.py",
        "(test_conversions and 20) or (test_poolings and 20) or (test_depthwise and 24)",
    ),
    "latency/conv.cu, io.cu": ("test_cs_latency.py", "test_plans and odd and two"),
    "latency/conv.cu, one plane": ("test_cs_latency.py", "test_plans and 5x5 and one"),
    "latency/conv.cu, vectors": ("test_cs_latency.py", "test_plans and five and shfl"),
    "latency/stem.cu, head.cu": (
        "test_cs_latency_ends.py",
        "(stem_equals and 37 and fp32) or (head_equals and 130 and fp32)",
    ),
    "wgmma/conv.cu, io.cu": ("test_cs_throughput.py", "test_every_tile and 80x48x3x3"),
    "wgmma/halo.cu": ("test_cs_throughput.py", "test_every_tile and 64x48x3x3"),
    "wgmma/stem.cu": ("test_cs_throughput.py", "test_first_layers and size3 and (fp32 or bf16)"),
    "wgmma/stem_pool.cu": (
        "test_cs_throughput.py",
        "test_first_layers and size1 and (fp32 or bf16)",
    ),
    "cusparselt/windows.cu": ("test_nm.py", "test_windows"),
    "csr/staged.cu, direct.cu": (
        "test_csr.py",
        "(test_every_width and residual and (fp32 or fp16)) or (test_every_timed and image)",
    ),
    "training/sr_ste.cu": ("test_sr_ste.py", "5:12 or equal_weights or another_order"),
}

SUMMARY = re.compile(r"(?:ERROR|RACECHECK) SUMMARY: (\d+)")
# Racecheck orders the reads of what a bulk copy without tensor map (cp.async.bulk) has written not
# by the mbarrier that counts the copy's bytes, so it finds a race wherever threads read such a
# copy; with tensor maps it finds none in the same code. That waits and releases are right is shown
# by tests/kernels/host, where the kernels that it names run with copies that come late and in
# any order. They are counted apart.
RACE = re.compile(
    r"={9} Error: Race reported between .*?(?=={9} *\n|={9} Error|={9} RACECHECK)", re.S
)
BULK_COPY = re.compile(r"load_bytes\(|SM90_BULK_COPY_G2S::copy\(")
TIMED_OUT = 124  # by coreutils' timeout


class Found(NamedTuple):
    """What a tool said of a family; `tests` is pytest's last line."""

    family: str
    tool: str
    findings: str
    seconds: float
    tests: str


def main(wanted: list[str]) -> None:
    """Run everything side by side and print the table."""
    families = [f for f in SELECTION if not wanted or any(w in f for w in wanted)]
    LOGS.mkdir(parents=True, exist_ok=True)
    cores = sorted(os.sched_getaffinity(0))
    seats: Queue[list[int]] = Queue()
    for first in range(0, max(1, len(cores) - CORES + 1), CORES):
        seats.put(cores[first : first + CORES])
    jobs = [(tool, family) for family in families for tool in TOOLS]
    with ThreadPoolExecutor(seats.qsize()) as pool:
        found = list(pool.map(lambda job: _seated(seats, *job), jobs))
    print(tabulate(found, ("kernels", "tool", "findings", "s", "tests"), "github", floatfmt=".0f"))
    sys.exit(int(not all(re.match(r"0\b", row.findings) for row in found)))


def _seated(seats: Queue[list[int]], tool: str, family: str) -> Found:
    """A run on cores of its own: references of all runs on all cores would crawl."""
    cores = seats.get()
    try:
        return run(tool, family, cores)
    finally:
        seats.put(cores)


def run(tool: str, family: str, cores: list[int]) -> Found:
    """One tool over one family's tests."""
    file, keyword = SELECTION[family]
    command = [
        "timeout", str(LIMIT_S), "taskset", "-c", ",".join(map(str, cores)),
        "compute-sanitizer", "--tool", tool, "--print-limit", "10000",
        sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-m", "gpu",
        str(HERE / file), *(["-k", keyword] if keyword else []),
    ]  # fmt: skip
    # Without torch's own pool every tensor ends where its memory ends.
    environment = os.environ | {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    begun = time.monotonic()
    done = subprocess.run(
        command, cwd=ROOT, env=environment, text=True, errors="replace", check=False,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    name = re.sub(r"\W+", "-", family)
    (LOGS / f"{name}-{tool}.log").write_text(done.stdout)
    return Found(family, tool, _findings(done), time.monotonic() - begun, _tests(done.stdout))


def _findings(done: subprocess.CompletedProcess[str]) -> str:
    """The tool's own count; in words where there is none to believe."""
    if done.returncode == TIMED_OUT:
        return f"not done in {LIMIT_S} s"
    counts = [int(count) for count in SUMMARY.findall(done.stdout)]
    if not counts:
        return "no summary"
    by_copies = sum(bool(BULK_COPY.search(race)) for race in RACE.findall(done.stdout))
    others = max(counts) - by_copies
    if others == 0 and not re.search(r"\d passed", done.stdout):
        return "tests failed"
    return f"{others} and {by_copies} by bulk copies" if by_copies else str(others)


def _tests(text: str) -> str:
    lines = [line for line in text.splitlines() if re.search(r"\d+ (passed|failed)", line)]
    return lines[-1].strip(" =") if lines else ""


if __name__ == "__main__":
    main(sys.argv[1:])
