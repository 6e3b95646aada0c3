"""An honest backend passes; each cheat is rejected, first of all for its own reason."""

from __future__ import annotations

import pytest
import torch

from csbench.backends import conformance
from csbench.backends.base import Backend
from csbench.backends.conformance import kit
from csbench.backends.conformance.diagnosis import diagnose
from csbench.backends.fake import Fake
from tests.backends import cheats

pytestmark = pytest.mark.usefixtures("one_thread")


def reasons(backend: Backend, dtype: str = "fp32", pattern: str = "dense") -> tuple[str, ...]:
    return conformance.run(backend, device="cpu", dtype=dtype, pattern=pattern).reasons


@pytest.mark.parametrize("pattern", ["dense", "cs", "block:16x16"])
def test_an_honest_backend_conforms(pattern: str) -> None:
    report = conformance.run(cheats.Honest(), device="cpu", dtype="fp32", pattern=pattern)
    assert report.reasons == ()
    assert report.passed


@pytest.mark.parametrize("pattern", ["cs", "block:16x16", "nm:2:4", "ovw", "unstructured"])
def test_the_fake_backend_is_right_and_runs_dense(pattern: str) -> None:
    assert reasons(Fake(), pattern=pattern) == ("multiplies-zeros",)


def test_the_fake_backend_conforms_as_a_dense_one() -> None:
    assert reasons(Fake()) == ()


@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
def test_an_honest_backend_conforms_in_half(dtype: str) -> None:
    assert reasons(cheats.Honest(), dtype) == ()


def test_an_error_between_two_calls_is_a_failed_check(monkeypatch: pytest.MonkeyPatch) -> None:
    def late(subject: object) -> str:
        raise RuntimeError("CUDA error: an illegal memory access was encountered\nand advice")

    monkeypatch.setitem(kit.CHECKS, "correctness", late)
    report = conformance.run(cheats.Honest(), device="cpu", dtype="fp32", pattern="dense")
    failed = next(o for o in report.outcomes if o.check == "correctness")
    assert (failed.status, failed.reason) == ("failed", "raises")
    assert failed.detail == "RuntimeError: CUDA error: an illegal memory access was encountered"


def test_refusals_are_legitimate_and_counted() -> None:
    report = conformance.run(cheats.Honest(), device="cpu", dtype="fp32", pattern="dense")
    layers = next(o for o in report.outcomes if o.check == "layers")
    assert layers.detail == "24 of 25 run; refused: 1 x it has groups"
    assert report.passed


@pytest.mark.parametrize(
    ("cheat", "reason"),
    [
        (cheats.CachedByShape, "cached-result"),
        (cheats.CachedByAddress, "cached-result"),
        (cheats.Lazy, "lazy-output"),
        (cheats.LeftBehind, "unfinished"),
        (cheats.NeverWritten, "never-written"),
        (cheats.LastRowUnwritten, "never-written"),
        (cheats.WrongShape, "wrong-shape"),
        (cheats.WrongStride, "wrong-stride"),
        (cheats.IgnoresStrides, "wrong-stride"),
        (cheats.WrongPermutation, "wrong-permutation"),
        (cheats.OffByAThousandth, "inaccurate"),
        (cheats.RightOnOneShape, "right-on-some-shapes-only"),
        (cheats.SharedOutput, "shared-output"),
        (cheats.WritesToItsInput, "input-modified"),
        (cheats.Random, "not-deterministic"),
        (cheats.RefusesEverything, "refuses-everything"),
        (cheats.RefusesSilently, "bad-declaration"),
        (cheats.Raises, "raises"),
        (cheats.UnknownPrecision, "bad-declaration"),
        (cheats.NotReady, "bad-declaration"),
        (cheats.SilentNetwork, "bad-layer-report"),
        (cheats.CachedNetwork, "cached-result"),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_a_cheat_is_rejected_for_its_own_reason(cheat: type[cheats.Honest], reason: str) -> None:
    assert reasons(cheat())[:1] == (reason,)


@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
def test_a_wrong_factor_does_not_hide_in_a_half(dtype: str) -> None:
    assert reasons(cheats.OffByAThousandth(), dtype) == ("inaccurate",)


def test_a_wrong_type() -> None:
    assert reasons(cheats.WrongType(), "fp16")[0] == "wrong-shape"


@pytest.mark.parametrize("cheat", [cheats.MultipliesZeros, cheats.SaysSparse])
@pytest.mark.parametrize(
    ("dtype", "pattern"), [("fp32", "cs"), ("fp16", "cs"), ("bf16", "block:16x16")]
)
def test_what_says_sparse_and_runs_dense_is_rejected(
    cheat: type[cheats.Honest], dtype: str, pattern: str
) -> None:
    assert reasons(cheat(), dtype, pattern) == ("multiplies-zeros",)


def test_a_whole_network_path_is_tested() -> None:
    report = conformance.run(cheats.HonestNetwork(), device="cpu", dtype="fp32", pattern="cs")
    assert report.passed
    assert report.outcomes[-1].check == "network"
    assert report.outcomes[-1].status == "ok"


def test_a_pattern_that_the_backend_does_not_run() -> None:
    report = conformance.run(cheats.Honest(), device="cpu", dtype="fp32", pattern="nm:2:4")
    assert report.reasons == ("bad-declaration",)
    assert len(report.outcomes) == 1


def test_what_a_torch_function_hides_is_still_lazy() -> None:
    expected = torch.ones(1, 2, 3, 3, dtype=torch.float64)
    like = torch.ones(1)
    for out in (torch.ones(1, 2, 3, 3).as_subclass(cheats.Deferred), None, [expected]):
        fault = diagnose(out, expected, like, "fp32")
        assert fault is not None
        assert fault.reason == "lazy-output"
    assert diagnose(expected.float(), expected, like, "fp32") is None
