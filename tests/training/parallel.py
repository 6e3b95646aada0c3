"""Run by torchrun: a scheme's ranks learn from different images and keep the same weights."""

from __future__ import annotations

import sys

import torch
import torch.distributed as dist

from csbench.core.pattern import parse
from csbench.training.ranks import join, leave
from csbench.training.schemes import make
from csbench.training.step import Conditions, Trainer
from tests.training.nets import net


def main(name: str, pattern: str) -> None:
    ranks = join("cpu", 60.0)
    torch.manual_seed(0)
    spec = parse(pattern)
    scheme = make(name, spec.at(spec.own_sparsity or 0.0), 2)
    trainer = Trainer(net(), scheme, scheme.recipe, Conditions("cpu", "fp32"), parallel=True)
    before = scheme.layers.flat.clone()
    draw = torch.Generator().manual_seed(ranks.rank)
    for step in range(4):
        images = torch.randn(8, 3, 8, 8, generator=draw)
        targets = torch.randint(10, (8,), generator=draw)
        trainer.step((images, targets), scheme.sparsity_at(step, 8))
    for mine in (scheme.layers.flat, scheme.layers.mask.view(torch.uint8)):
        first = mine.clone()
        dist.broadcast(first, src=0)
        assert torch.equal(first, mine), f"rank {ranks.rank} differs from the first"
    assert not torch.equal(before, scheme.layers.flat)
    leave(ranks)


if __name__ == "__main__":
    main(*sys.argv[1:])
