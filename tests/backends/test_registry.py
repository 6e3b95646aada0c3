"""Names lead to backends; plug-ins cannot shadow, and broken ones are reported and do no harm."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from csbench.backends import registry
from csbench.backends.base import Backend
from csbench.errors import BackendError, UsageError

GOOD = """
class Third:
    name = "third"
    patterns = frozenset({"block"})
    devices = frozenset({"cpu"})
    dtypes = frozenset({"fp32"})
    lacks = None
    def missing(self, device): return self.lacks
    def why_not(self, conv, case): return None
    def lower(self, conv, case): raise NotImplementedError
class Lacking(Third):
    name = "lacking"
    lacks = "no compiler; install g++"
class Sick(Third):
    name = "sick"
    def missing(self, device): raise OSError("no such library")
class Half:
    name = "half"
class Impostor(Third):
    name = "onednn"
def explodes():
    raise RuntimeError("no licence")
"""

ENTRY_POINTS = """
[csbench.backends]
third = thirdparty:Third
cudnn = thirdparty:Third
gone = no_such_module:Class
half = thirdparty:Half
explodes = thirdparty:explodes
"""


@pytest.fixture
def plug_ins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installed package with a good, a clashing and three broken backends."""
    (tmp_path / "thirdparty.py").write_text(GOOD)
    info = tmp_path / "thirdparty-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: thirdparty\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(ENTRY_POINTS)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    sys.modules.pop("thirdparty", None)


def test_built_in_names_load_lazily() -> None:
    code = (
        "import sys; from csbench.backends import registry; registry.names(); "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    assert set(registry.BUILT_IN) <= set(registry.names())


@pytest.mark.parametrize("name", registry.BUILT_IN)
def test_every_built_in_loads_and_says_who_it_is(name: str) -> None:
    backend: Backend = registry.get(name)
    assert backend.name == name
    for device in backend.devices:
        missing = backend.missing(device)
        assert missing is None or len(missing.splitlines()) == 1


def test_an_unknown_name_suggests_the_nearest() -> None:
    with pytest.raises(UsageError, match="unknown backend 'onednm'; did you mean onednn"):
        registry.get("onednm")


def test_a_plug_in_is_found(plug_ins: Path) -> None:
    assert "third" in registry.names()
    assert registry.get("third").name == "third"


def test_a_plug_in_cannot_shadow(plug_ins: Path) -> None:
    assert type(registry.get("cudnn")).__module__ == "csbench.backends.dense.cudnn"
    problems = [entry.problem for entry in registry.entries() if entry.problem]
    assert problems == [
        "plug-in 'cudnn' of package thirdparty is ignored: the name belongs to a built-in backend"
    ]


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("gone", "backend 'gone' of package thirdparty is broken: ModuleNotFoundError"),
        ("half", "it has no patterns, devices, dtypes, missing, why_not, lower"),
        ("explodes", "RuntimeError: no licence"),
    ],
)
def test_a_broken_plug_in_is_named_and_harms_nobody(plug_ins: Path, name: str, part: str) -> None:
    with pytest.raises(BackendError, match=part):
        registry.get(name)
    tried = {listed.entry.target: listed for listed in registry.listing()}
    assert part in (tried[registry_target(name)].problem or "")
    assert tried["csbench.backends.fake:Fake"].backend is not None
    assert "third" in registry.for_pattern("block", "cpu", "fp32")


def registry_target(name: str) -> str:
    return next(e.target for e in registry.entries() if e.name == name)


def test_a_class_given_by_file_or_module(plug_ins: Path) -> None:
    path = plug_ins / "thirdparty.py"
    assert registry.get(f"{path}:Third").name == "third"
    assert registry.get("thirdparty:Third").name == "third"
    for target, error, part in [
        (f"{path}:Impostor", UsageError, "calls itself 'onednn', a built-in name"),
        (f"{path}:Fourth", BackendError, "has no attribute 'Fourth'"),
        (f"{plug_ins}/none.py:Third", BackendError, "no file"),
    ]:
        with pytest.raises(error, match=part):
            registry.get(target)


def test_default_backends_of_a_pattern(plug_ins: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "BUILT_IN", {
        "masked": registry.BUILT_IN["masked"],
        "fake": registry.BUILT_IN["fake"],
        "cudnn": registry.BUILT_IN["cudnn"],
        "lacking": "thirdparty:Lacking",
    })  # fmt: skip
    assert registry.for_pattern("block", "cpu", "fp32") == ("third",)  # ready ones only
    assert registry.for_pattern("block", "cuda", "fp32") == ()
    assert registry.for_pattern("block", "cpu", "fp16") == ()
    assert registry.for_pattern("cs", "cpu", "fp32") == ()
    (plug_ins / "thirdparty-1.0.dist-info" / "entry_points.txt").write_text("")
    assert registry.for_pattern("block", "cpu", "fp32") == ("lacking",)  # its row says why


def test_a_check_that_fails_is_what_is_missing(plug_ins: Path) -> None:
    sick = registry.get("thirdparty:Sick")
    assert registry.lack(sick, "cpu") == "its check of cpu fails: OSError: no such library"


def test_dense_baselines() -> None:
    assert registry.dense_baseline("cpu") == "onednn"
    assert registry.dense_baseline("cuda:1") == "cudnn"
    with pytest.raises(UsageError, match="unknown device 'tpu'"):
        registry.dense_baseline("tpu")
