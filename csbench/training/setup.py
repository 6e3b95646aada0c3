"""What a training case runs on: its data set, its models, its trainers."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import msgspec
import torch
from torch import nn

from csbench import models
from csbench.core.case import Case
from csbench.core.pattern import PatternSpec, parse
from csbench.core.training import Flops, Recipe, TrainSettings
from csbench.errors import UsageError
from csbench.sparse import checkpoint as checkpoints
from csbench.training import flops
from csbench.training.data import Place, Source, open_source
from csbench.training.datasets import Dataset, dataset
from csbench.training.ranks import Ranks
from csbench.training.schemes import SCHEMES, Scheme, make
from csbench.training.step import Conditions, Trainer


class Options(NamedTuple):
    """What a run needs besides the case: where data lies, and what to save."""

    data: Path | None = None
    save: Path | None = None
    workers: int = 2
    seed: int = 0


class Setup:
    """Builds everything that one case needs; raises UsageError for what cannot be."""

    def __init__(self, case: Case, options: Options, ranks: Ranks) -> None:
        assert isinstance(case.training, TrainSettings)
        self.case, self.asked, self.options, self.ranks = case, case.training, options, ranks
        self.how = Conditions(case.device, case.dtype, self.asked.channels_last, self.asked.compile)
        self.dataset: Dataset = dataset(self.asked.dataset)
        self.recipe = _recipe(SCHEMES[case.backend].recipe, self.asked)
        self.spec: PatternSpec = parse(case.pattern).at(case.sparsity)

    @property
    def steps(self) -> int:
        """Steps of the whole schedule."""
        return self.asked.epochs * self.asked.steps_per_epoch

    def model(self) -> nn.Module:
        """The network with its checkpoint's weights, or weights from the seed."""
        case = self.case
        model = models.build(
            case.model, seed=case.checkpoint.seed or 0, num_classes=self.dataset.classes
        )
        if case.checkpoint.path is not None:
            checkpoints.fit(checkpoints.load(case.checkpoint.path), model, case.model)
        return model

    def scheme(self) -> Scheme:
        return make(self.case.backend, self.spec, self.asked.interval)

    def trainer(self) -> Trainer:
        """The case's own, its gradients averaged where there are ranks."""
        return Trainer(
            self.model(), self.scheme(), self.recipe, self.how, parallel=self.ranks.launched
        )

    def dense(self, parallel: bool) -> Trainer:
        """Dense training of the same network, recipe and conditions."""
        scheme = make("dense", PatternSpec("dense"), self.asked.interval)
        return Trainer(self.model(), scheme, self.recipe, self.how, parallel=parallel)

    def source(self) -> Source:
        place = Place(torch.device(self.case.device), self.asked.channels_last)
        return open_source(
            self.case, self.dataset, self.options.data, place, seed=self.options.seed,
            workers=self.options.workers, rank=self.ranks.rank, ranks=self.ranks.world,
        )  # fmt: skip

    def flops(self, sparse: list[str]) -> Flops | None:
        """Theoretical FLOPs of a step; None for a model that cannot run on shapes alone."""
        try:
            with torch.device("meta"):
                model = models.resolve(self.case.model)(self.dataset.classes)
            return flops.count(model, self.case.input, self.case.batch, sparse)
        except (NotImplementedError, RuntimeError):
            return None

    def save(self, trainer: Trainer) -> str | None:
        """Write the finished weights as a sparse checkpoint that `infer` loads; its sha256."""
        trainer.scheme.finish()
        trainer.scheme.verify(trainer.model)
        if self.options.save is None or not self.ranks.first:
            return None
        state = {k: v.detach().cpu().contiguous() for k, v in trainer.model.state_dict().items()}
        notes = {
            "pattern": str(self.spec), "sparsity": f"{self.case.sparsity!r}",
            "model": self.case.model, "scheme": self.case.backend, "dataset": self.dataset.name,
            "seed": str(self.options.seed),
        }  # fmt: skip
        return checkpoints.save(self.options.save, state, notes)


def _recipe(own: Recipe, asked: TrainSettings) -> Recipe:
    """The scheme's recipe with what was given; a second stage only where it has one."""
    names = ("lr", "finetune_lr", "weight_decay", "warmup_epochs")
    given = {name: value for name in names if (value := getattr(asked, name)) is not None}
    if own.finetune_lr is None:
        given.pop("finetune_lr", None)
    if any(not given.get(name, 1) > 0 for name in ("lr", "finetune_lr")):
        raise UsageError("a learning rate is a number above 0; type for example --lr 0.1")
    return msgspec.structs.replace(own, **given)
