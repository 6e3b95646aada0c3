"""What decides compiled code decides its name in the cache; only what is missing is compiled."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from csbench.kernels import nvrtc

TEXTS = {
    "outer.cu": '#include "wgmma/common.cuh"\n#include <cuda_fp16.h>\nint a;\n',
    "wgmma/common.cuh": '#include "wgmma/finish.cuh"\nint b;\n',
    "wgmma/finish.cuh": "int c;\n",
}


@pytest.fixture
def texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Invented kernel files under names that exist, an empty cache, no NVRTC and no GPU."""
    found = dict(TEXTS)
    monkeypatch.setenv("CSBENCH_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(nvrtc, "source", found.__getitem__)
    monkeypatch.setattr(nvrtc, "digest", nvrtc.digest.__wrapped__)
    monkeypatch.setattr(nvrtc, "nvrtc_version", lambda: (13, 0))
    monkeypatch.setattr(nvrtc, "architecture", lambda device: "sm_90a")
    return found


@pytest.mark.parametrize("changed", TEXTS)
def test_the_name_changes_with_every_file_that_is_included(
    texts: dict[str, str], changed: str
) -> None:
    before = nvrtc._cubin_path("outer.cu", ("-DA=1",), "sm_90a")
    assert nvrtc._cubin_path("outer.cu", ("-DA=1",), "sm_90a") == before
    texts[changed] += "int d;\n"
    assert nvrtc._cubin_path("outer.cu", ("-DA=1",), "sm_90a") != before


def test_the_name_changes_with_options_and_target(texts: dict[str, str]) -> None:
    paths = {
        nvrtc._cubin_path("outer.cu", options, arch)
        for options in (("-DA=1",), ("-DA=2",), ("-DA=1", "-DB=1"))
        for arch in ("sm_80", "sm_90a")
    }
    assert len(paths) == 6


def test_only_what_is_not_cached_is_compiled_and_each_once(
    texts: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled: list[tuple[str, ...]] = []

    def compile_one(source: str, flags: Sequence[str], name: str) -> bytes:
        compiled.append(tuple(flag for flag in flags if flag.startswith("-D")))
        return b"cubin"

    monkeypatch.setattr(nvrtc, "_compile", compile_one)
    nvrtc.compile_cubin("outer.cu", options=("-DA=0",))
    jobs = [("outer.cu", (f"-DA={n}",)) for n in (0, 1, 2, 1)]
    nvrtc.compile_all(jobs, device=0)
    assert sorted(compiled) == [("-DA=0",), ("-DA=1",), ("-DA=2",)]
    nvrtc.compile_all(jobs, device=0)
    assert len(compiled) == 3
