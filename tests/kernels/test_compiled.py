"""Every kernel file is compiled by some test for every architecture it is for, without spills."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.kernels.compiled import ARCHITECTURES, FOLDER, HOPPER, compiled, needs_nvcc

TESTS = Path(__file__).parents[1]
FILES = sorted(str(path.relative_to(FOLDER)) for path in FOLDER.rglob("*.cu"))

# What is written in instructions of sm_90 and sm_90a alone: wgmma, clusters, the bulk copy engine.
# All else compiles for sm_80 too.
HOPPER_ONLY = ("cutlass/", "gather/", "latency/", "wgmma/")

# Kernel file -> the test that compiles its tiles and bounds their spills ...
COMPILED_IN = {
    "block/block.cu": "gpu/test_block.py",
    "cusparselt/windows.cu": "backends/nm/test_cusparselt.py",
    **dict.fromkeys(
        (f"cutlass/{name}.cu" for name in ("block", "persistent")), "gpu/test_block_cutlass.py"
    ),
    **dict.fromkeys(
        (f"gather/{name}.cu" for name in ("conv", "io", "window")),
        "backends/vector/test_backend.py",
    ),
    "latency/conv.cu": "gpu/test_cs_latency.py",
    **dict.fromkeys(
        (f"latency/{name}.cu" for name in ("head", "stem")), "gpu/test_cs_latency_ends.py"
    ),
    "training/sr_ste.cu": "kernels/test_sr_ste.py",
    **dict.fromkeys(
        (f"wgmma/{name}.cu" for name in ("conv", "halo", "io", "stem", "stem_pool")),
        "gpu/test_cs_throughput.py",
    ),
}
# ... or options with which it is compiled here, where no bytes may spill.
SAMPLES = {
    "block/planes.cu": (),
    "csr/direct.cu": ("KIND=1", "ROWS=4", "PIXELS=2", "PADDED=1"),
    "csr/staged.cu": ("KIND=1", "ROWS=2", "GROUPS=2", "PIXELS=2", "WARPS=4", "COPY=4"),
    "latency/io.cu": ("SPLIT=1",),
}  # fmt: skip


def architectures(file: str) -> tuple[str, ...]:
    return (HOPPER,) if file.startswith(HOPPER_ONLY) else ARCHITECTURES


def test_no_kernel_file_is_forgotten() -> None:
    known = {*COMPILED_IN, *SAMPLES}
    assert set(FILES) - known == set(), "compile it in a test, and say so here"
    assert known - set(FILES) == set(), "there is no such kernel any more"


@pytest.mark.parametrize("file", COMPILED_IN)
def test_the_named_test_compiles_for_every_architecture(file: str) -> None:
    module = ast.parse((TESTS / COMPILED_IN[file]).read_text())
    names = {node.id for node in ast.walk(module) if isinstance(node, ast.Name)}
    assert "needs_nvcc" in names
    assert {"compiled", "Compiled"} & names
    assert "ARCHITECTURES" in names or file.startswith(HOPPER_ONLY)


@needs_nvcc
@pytest.mark.parametrize(
    ("file", "arch"), [(file, arch) for file in SAMPLES for arch in architectures(file)]
)
def test_samples_compile_without_spills(file: str, arch: str, tmp_path: Path) -> None:
    found = compiled(file, [f"-D{option}" for option in SAMPLES[file]], arch, tmp_path)
    assert found.spilled == 0, found.log
