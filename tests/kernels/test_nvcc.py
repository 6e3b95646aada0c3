"""Kernels on CUTLASS: compiled once, anew when a header changes, and one line where it fails."""

from __future__ import annotations

from pathlib import Path

import pytest

from csbench.errors import BackendError
from csbench.kernels.cutlass import nvcc
from tests.kernels.compiled import needs_nvcc

SOURCE = '#include "answer.cuh"\nextern "C" __global__ void answer(int* to) { *to = ANSWER; }\n'
ARCH = "sm_90a"
needs_cutlass = pytest.mark.skipif(nvcc.headers() is None, reason="no CUTLASS headers")


@pytest.fixture
def sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with one kernel and its header, and an empty cache."""
    folder = tmp_path / "sources"
    folder.mkdir()
    (folder / "answer.cu").write_text(SOURCE)
    (folder / "answer.cuh").write_text("#define ANSWER 42\n")
    monkeypatch.setenv("CSBENCH_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(nvcc, "_HERE", folder)
    return folder


def kept(sources: Path) -> list[Path]:
    return sorted((sources.parent / "cache" / "nvcc").iterdir())


@needs_nvcc
@needs_cutlass
def test_a_source_is_compiled_once(sources: Path) -> None:
    cubin = nvcc.compile_cubin("answer.cu", (), ARCH)
    (first,) = kept(sources)
    stamp = first.stat().st_mtime_ns
    nvcc.compile_all([("answer.cu", ()), ("answer.cu", ())], ARCH)
    assert nvcc.compile_cubin("answer.cu", (), ARCH) == cubin
    assert kept(sources) == [first] and first.stat().st_mtime_ns == stamp


@needs_nvcc
@needs_cutlass
def test_a_changed_header_or_option_compiles_anew(sources: Path) -> None:
    nvcc.compile_cubin("answer.cu", (), ARCH)
    (sources / "answer.cuh").write_text("#define ANSWER 43\n")
    nvcc.compile_cubin("answer.cu", (), ARCH)
    nvcc.compile_cubin("answer.cu", ("-DUNUSED",), ARCH)
    assert len(kept(sources)) == 3


@needs_nvcc
@needs_cutlass
def test_a_compiler_error_is_one_line(sources: Path) -> None:
    (sources / "answer.cuh").write_text("#define ANSWER nothing\n")
    with pytest.raises(BackendError, match=r"cannot compile answer.cu: .*error.*nothing") as found:
        nvcc.compile_cubin("answer.cu", (), ARCH)
    assert "\n" not in str(found.value)


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(nvcc, "compiler", lambda: None)
    monkeypatch.setattr(nvcc, "headers", lambda: None)
    problem = nvcc.missing()
    assert problem is not None
    assert "nvcc" in problem and "CUDA_HOME" in problem
    assert "pip install 'csbench[cutlass]'" in problem
    monkeypatch.setattr(nvcc, "compiler", lambda: "nvcc")
    monkeypatch.setattr(nvcc, "headers", lambda: tmp_path)
    monkeypatch.setattr(nvcc, "_version", lambda: "Cuda compilation tools, release 11.8, V11.8.89")
    assert nvcc.missing() == "it needs nvcc 12.3 or newer (this is 11.8)"
    monkeypatch.setattr(nvcc, "_version", lambda: "Cuda compilation tools, release 13.0, V13.0.88")
    assert nvcc.missing() is None


def test_headers_of_a_checkout_are_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "include" / "cute").mkdir(parents=True)
    (tmp_path / "include" / "cute" / "tensor.hpp").touch()
    monkeypatch.setenv("CUTLASS_PATH", str(tmp_path))
    assert nvcc.headers.__wrapped__() == tmp_path / "include"
