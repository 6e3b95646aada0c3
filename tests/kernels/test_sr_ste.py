"""SR-STE's kernels compile for every size of group, without spills."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.kernels.compiled import ARCHITECTURES, HOPPER, compiled, needs_nvcc

pytestmark = needs_nvcc


@pytest.mark.parametrize("arch", [*ARCHITECTURES, HOPPER])
@pytest.mark.parametrize("m", [1, 4, 7, 16])
def test_groups_stay_in_registers(m: int, arch: str, tmp_path: Path) -> None:
    assert compiled("training/sr_ste.cu", [f"-DM={m}"], arch, tmp_path).spilled == 0
