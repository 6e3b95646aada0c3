"""Compile a CUDA kernel with nvcc, which needs no GPU, and read what the assembler says of it.

Where NVRTC is installed it compiles the kernel too: it is what users' machines compile with, and it
knows less of the host's headers than nvcc.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from csbench.kernels import nvrtc

FOLDER = Path(nvrtc.__file__).parent
ARCHITECTURES = ("sm_80", "sm_90")
HOPPER = "sm_90a"  # sm_90 with the instructions that only it has
BY_NVCC_ALONE = ("cutlass/block.cu", "cutlass/persistent.cu")  # on users' machines too

needs_nvcc = pytest.mark.skipif(shutil.which("nvcc") is None, reason="no nvcc")


@dataclass(frozen=True)
class Compiled:
    """The assembler's log, and the most bytes that any kernel of the file spills."""

    log: str

    @property
    def spilled(self) -> int:
        found = re.findall(r"(\d+) bytes spill stores", self.log)
        assert found, self.log
        return max(map(int, found))


def compiled(file: str, options: Sequence[str], arch: str, target: Path) -> Compiled:
    """The kernel file (`wgmma/conv.cu`) with -D options, compiled for one architecture."""
    number = arch.removeprefix("sm_")
    done = subprocess.run(
        ["nvcc", "-cubin", f"-gencode=arch=compute_{number},code={arch}", "--std=c++17",
         "-Xptxas", "-v", f"-I{FOLDER}", *options, "-o", target / "kernel.cubin", FOLDER / file],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    if nvrtc.missing() is None and file not in BY_NVCC_ALONE:
        nvrtc.compile_cubin(file, options=options, arch=HOPPER if arch == "sm_90" else arch)
    return Compiled(done.stderr)
