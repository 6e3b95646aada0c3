"""Training schemes on a GPU: masks, gradients, memory, and one rank with NCCL."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from csbench import models
from csbench.bench.memory import in_use, peak_of
from csbench.core.pattern import parse
from csbench.core.store import read
from csbench.training.data import Batch
from csbench.training.schemes import make
from csbench.training.step import Conditions, Trainer

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
PATTERNS = {
    "nm": "nm:2:4", "nm-argsort": "nm:2:4", "cs": "cs:4", "cs-c": "cs:2", "ovw": "ovw:16@0.75",
    "shfl-bw": "shfl-bw:16@0.75", "block": "block:16x16@0.5", "unstructured": "unstructured@0.9",
}  # fmt: skip


def trainer_of(name: str, how: Conditions, model: str = "resnet20") -> Trainer:
    spec = parse(PATTERNS.get(name, name))
    scheme = make(name, spec.at(spec.own_sparsity or 0.0), 2)
    return Trainer(models.build(model, seed=0), scheme, scheme.recipe, how)


def batch(how: Conditions, size: int = 32, count: int = 16) -> Batch:
    draw = torch.Generator("cuda").manual_seed(0)
    order = torch.channels_last if how.channels_last else torch.contiguous_format
    images = torch.randn(count, 3, size, size, device="cuda", generator=draw)
    labels = torch.randint(100, (count,), device="cuda", generator=draw)
    return images.contiguous(memory_format=order), labels


@pytest.mark.parametrize("dtype", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("name", PATTERNS)
def test_a_schedule_ends_at_the_pattern(name: str, channels_last: bool, dtype: str) -> None:
    how = Conditions("cuda", dtype, channels_last)
    with how.precision():
        trainer = trainer_of(name, how)
        for step in range(8):
            trainer.step(batch(how), trainer.scheme.sparsity_at(step, 8))
    assert trainer.last_loss is not None and torch.isfinite(trainer.last_loss)
    trainer.scheme.finish()
    trainer.scheme.verify(trainer.model)


@pytest.mark.parametrize("channels_last", [False, True])
def test_sr_ste_chooses_as_the_authors_code_and_the_cpu_do(channels_last: bool) -> None:
    how = Conditions("cuda", "fp32", channels_last)
    fused, sorted_ = trainer_of("nm", how), trainer_of("nm-argsort", how)
    fused.scheme.before_forward()
    on_gpu = [mask.cpu() for mask in fused.scheme.layers.masks]
    cpu = trainer_of("nm", Conditions("cpu", "fp32", channels_last))
    cpu.scheme.before_forward()
    for own, other in zip(on_gpu, cpu.scheme.layers.masks, strict=True):
        assert torch.equal(own, other)
    with how.precision():
        fused.step(batch(how))
        sorted_.step(batch(how))
    for own, other in zip(fused.model.parameters(), sorted_.model.parameters(), strict=True):
        torch.testing.assert_close(own, other, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", ["nm", "cs"])
def test_no_more_memory_than_the_masks(name: str) -> None:
    how = Conditions("cuda", "bf16", channels_last=True)
    peaks = {}
    for each in ("dense", name):
        before = in_use("cuda")
        trainer = trainer_of(each, how, "resnet50")
        images = batch(how, 224, 16)
        trainer.step(images)  # the optimiser's state is there from now on
        peaks[each] = peak_of(lambda t=trainer, i=images: t.step(i), "cuda", before)
        weights = sum(p.numel() for p in trainer.model.parameters())
        del trainer, images
        torch.cuda.empty_cache()
    assert peaks[name] - peaks["dense"] < 1.1 * weights  # a byte a weight


def test_one_rank_with_nccl_shows_the_cost_of_ddp(tmp_path: Path) -> None:
    command = [
        sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "1", "--standalone",
        "-m", "csbench", "train-time", "--pattern", "cs", "--model", "resnet20", "--dataset",
        "cifar100", "-b", "32", "--max-noise", "99%", "--max-time", "2", "--min-time", "1",
    ]  # fmt: skip
    done = subprocess.run(
        command, cwd=tmp_path, env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        check=False, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (record,) = read(tmp_path / "csbench-results" / "records.jsonl")
    assert record.env["ranks"] == {"world": 1, "backend": "nccl"}
    assert record.training and record.training.ddp_ms
