"""One training step of a network under a scheme: lean, and the same whether it is timed or not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from csbench.core.training import Recipe
from csbench.training.data import Batch
from csbench.training.schemes import Scheme
from csbench.training.split import Mark

_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Conditions:
    """How steps run: the same for a scheme and for the dense training beside it."""

    device: str
    dtype: str
    channels_last: bool = False
    compile: bool = False

    @property
    def forward_dtype(self) -> torch.dtype:
        """The precision that convolutions compute in."""
        return _AUTOCAST.get(self.dtype, torch.float32)

    def place(self, model: nn.Module) -> nn.Module:
        """The model in training mode, on the device and in the memory order."""
        order = torch.channels_last if self.channels_last else torch.contiguous_format
        placed: nn.Module = model.train().to(self.device, memory_format=order)  # type: ignore[call-overload]
        return placed

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device, self.forward_dtype, enabled=self.dtype in _AUTOCAST)

    @contextmanager
    def precision(self) -> Iterator[None]:
        """TF32 on or off everywhere: a precision of its own.

        cuDNN searches among the ten algorithms that it expects most of, as torch has it by default:
        trying all of them takes a minute at batch 256.
        """
        matmul, tf32 = torch.backends.cuda.matmul, self.dtype == "tf32"
        before = matmul.allow_tf32
        matmul.allow_tf32 = tf32
        try:
            with torch.backends.cudnn.flags(
                enabled=True, benchmark=True, deterministic=False, allow_tf32=tf32
            ):
                yield
        finally:
            matmul.allow_tf32 = before


class Trainer:
    """A model that learns; with `parallel` its gradients are averaged over all ranks."""

    def __init__(
        self, model: nn.Module, scheme: Scheme, recipe: Recipe, how: Conditions,
        parallel: bool = False,
    ) -> None:  # fmt: skip
        self.model, self.scheme, self.how = how.place(model), scheme, how
        self._parallel = parallel
        scheme.attach(self.model, how.channels_last, how.forward_dtype)
        network = self.model
        if parallel:
            on = [torch.cuda.current_device()] if how.device == "cuda" else None
            network = DistributedDataParallel(network, device_ids=on)
        self._network: Any = torch.compile(network) if how.compile else network
        self.optimiser = optimiser(self.model, recipe, how.device)
        self._scaler = torch.amp.GradScaler(how.device, enabled=how.dtype == "fp16")
        self._loss = nn.CrossEntropyLoss()
        self.last_loss: Tensor | None = None

    def step(self, batch: Batch, sparsity: float | None = None, mark: Mark | None = None) -> None:
        """Learn from one batch, then choose the masks anew where a sparsity is given.

        `mark` is told the name of every part of the step when it ends.
        """
        images, targets = batch
        self.optimiser.zero_grad(set_to_none=True)
        self.scheme.before_forward()
        if mark:
            mark("mask")
        with self.how.autocast():
            loss = self._loss(self._network(images), targets)
        self.scheme.after_forward()
        if mark:
            mark("forward")
        self._scaler.scale(loss).backward()
        if self.scheme.recipe.decay:
            self._scaler.unscale_(self.optimiser)  # the decay is not scaled like the loss
        if mark:
            mark("backward")
        with torch.no_grad():
            self.scheme.before_optimiser()
        if mark:
            mark("regulariser")
        self._scaler.step(self.optimiser)
        self._scaler.update()
        if mark:
            mark("optimiser")
        if sparsity is not None:
            self.update_masks(sparsity)
        with torch.no_grad():
            self.scheme.after_optimiser()
        if mark:
            mark("mask")
        self.last_loss = loss.detach()

    @torch.no_grad()
    def update_masks(self, sparsity: float) -> None:
        """Choose the masks from the weights as they are; every rank takes the first one's."""
        self.scheme.update(sparsity)
        if self._parallel and self.scheme.spec.name != "dense":
            dist.broadcast(self.scheme.layers.mask.view(torch.uint8), src=0)

    def set_rate(self, rate: float) -> None:
        """The learning rate of the next step."""
        for group in self.optimiser.param_groups:
            group["lr"] = rate

    @torch.no_grad()
    def evaluate(self, batch: Batch) -> Tensor:
        """How many images of a batch are told right, by the weights as masked now (a scalar)."""
        self.model.eval()
        self.scheme.before_forward()
        network = self._network.module if self._parallel else self._network
        with self.how.autocast():
            predicted = network(batch[0]).argmax(1)
        self.scheme.after_forward()
        self.model.train()
        right: Tensor = (predicted == batch[1]).sum()
        return right


def optimiser(model: nn.Module, recipe: Recipe, device: str) -> torch.optim.SGD:
    """SGD with momentum; on a GPU in its fused form, for every scheme and the dense loop alike."""
    return torch.optim.SGD(
        model.parameters(), lr=recipe.lr, momentum=recipe.momentum,
        weight_decay=recipe.weight_decay, fused=device == "cuda",
    )  # fmt: skip


def plain_loop(
    model: nn.Module, recipe: Recipe, how: Conditions, batch: Callable[[], Batch]
) -> Callable[[], None]:
    """The step of a plain loop as anybody would write it: what `dense` is compared with."""
    model = how.place(model)
    network: Any = torch.compile(model) if how.compile else model
    sgd = optimiser(model, recipe, how.device)
    criterion = nn.CrossEntropyLoss()
    scaler = torch.amp.GradScaler(how.device, enabled=how.dtype == "fp16")

    def step() -> None:
        images, targets = batch()
        sgd.zero_grad(set_to_none=True)
        with how.autocast():
            loss = criterion(network(images), targets)
        scaler.scale(loss).backward()
        scaler.step(sgd)
        scaler.update()

    return step
