"""Kernels compiled on demand: cached by what decides them, and one clear line where it fails."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from csbench.errors import BackendError
from csbench.kernels import build

SOURCE = '#include "answer.h"\nextern "C" int answer() { return ANSWER; }\n'
needs_compiler = pytest.mark.skipif(build.compiler() is None, reason="no C++ compiler")


@pytest.fixture
def sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with one kernel and its header, and an empty cache."""
    folder = tmp_path / "sources"
    folder.mkdir()
    (folder / "answer.cpp").write_text(SOURCE)
    (folder / "answer.h").write_text("#define ANSWER 42\n")
    monkeypatch.setenv("CSBENCH_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(build, "_SOURCES", folder)
    build.load.cache_clear()
    yield folder
    build.load.cache_clear()


def built(sources: Path) -> list[Path]:
    return sorted((sources.parent / "cache" / "cpu").iterdir())


@needs_compiler
def test_a_source_is_compiled_once(sources: Path) -> None:
    assert build.load("answer.cpp").answer() == 42
    (first,) = built(sources)
    stamp = first.stat().st_mtime_ns
    build.load.cache_clear()
    assert build.load("answer.cpp").answer() == 42
    assert built(sources) == [first] and first.stat().st_mtime_ns == stamp


@needs_compiler
def test_a_changed_header_compiles_anew(sources: Path) -> None:
    build.load("answer.cpp")
    build.load.cache_clear()
    (sources / "answer.h").write_text("#define ANSWER 43\n")
    assert build.load("answer.cpp").answer() == 43
    assert len(built(sources)) == 2


@needs_compiler
def test_a_compiler_error_is_one_line(sources: Path) -> None:
    (sources / "answer.cpp").write_text("int f() { return nothing; }\n")
    with pytest.raises(BackendError, match=r"cannot compile answer.cpp: .*error.*nothing") as found:
        build.load("answer.cpp")
    assert "\n" not in str(found.value)
    assert built(sources) == []


@needs_compiler
def test_a_flag_that_the_compiler_does_not_know_is_left_out(
    sources: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = shutil.which((build.compiler() or ("g++",))[0])
    old = tmp_path / "old-c++"
    old.write_text(
        "#!/bin/sh\n"
        'for a in "$@"; do case "$a" in\n'
        '-m*=native|-fopenmp) echo "error: $a" >&2; exit 1;; esac; done\n'
        f'exec {real} "$@"\n'
    )
    old.chmod(0o755)
    monkeypatch.setenv("CXX", str(old))
    assert build.load("answer.cpp").answer() == 42


def test_without_a_compiler_it_says_what_to_install(
    sources: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(BackendError, match=r"install g\+\+"):
        build.load("answer.cpp")
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert "no-such-compiler" in (build.missing() or "")


@needs_compiler
def test_processes_may_build_at_the_same_time(sources: Path) -> None:
    code = (
        "import pathlib, sys; from csbench.kernels import build;"
        "build._SOURCES = pathlib.Path(sys.argv[1]); assert build.load('answer.cpp').answer() == 42"
    )
    running = [subprocess.Popen([sys.executable, "-c", code, str(sources)]) for _ in range(3)]
    assert [process.wait() for process in running] == [0, 0, 0]
    assert len(built(sources)) == 1


@needs_compiler
def test_threads_come_from_the_runtime_that_torch_uses(sources: Path) -> None:
    if not build._openmp_runtime():
        pytest.skip("torch has no GNU OpenMP here")
    (sources / "answer.cpp").write_text(
        'extern "C" int answer() { int n = 0;\n#pragma omp parallel num_threads(2) reduction(+:n)\n'
        "n += 1;\nreturn n; }\n"
    )
    # In a process of its own: other libraries (scikit-learn) bring a runtime of theirs.
    code = (
        "import pathlib, sys; from csbench.kernels import build;"
        "build._SOURCES = pathlib.Path(sys.argv[1]); assert build.load('answer.cpp').answer() == 2;"
        "maps = pathlib.Path('/proc/self/maps').read_text().splitlines();"
        "print(len({line.split()[-1] for line in maps if 'libgomp' in line}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(sources)], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "1"
