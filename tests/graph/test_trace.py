"""A program computes what its model does, and fuses what may be fused and nothing else."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from csbench import models
from csbench.errors import ModelError
from csbench.graph import Program, reference, trace
from csbench.graph.trace import exact
from tests.graph import nets

SIZE = (3, 9, 8)


def layers(program: Program) -> tuple[str, ...]:
    return tuple(
        f"{c.name} {c.activation}{' residual' if c.residual else ''}" for c in program.convolutions
    )


def error_in_float64(program: Program, model: nn.Module, batch: int = 3) -> float:
    generator = torch.Generator().manual_seed(7)
    x = torch.randn(batch, *program.input_size, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        expected = copy.deepcopy(model).double()(x.clone())
    return reference.relative_error(reference.run(program, x), expected)


@pytest.mark.parametrize("net", nets.ALL, ids=lambda net: net.__name__)
def test_awkward_networks(net: type[nn.Module]) -> None:
    model = nets.randomised(net())
    program = exact(model, SIZE, "net")
    assert layers(program) == net.expected
    assert error_in_float64(program, model) < 1e-10
    assert error_in_float64(trace(model, SIZE, "net"), model) < 1e-5


@pytest.mark.parametrize("name", [n for n in models.names() if n != "vgg19_bn"])
def test_our_models(name: str) -> None:
    size = (3, 32, 32)
    model = models.build(name, seed=0, num_classes=10)
    models.calibrate(model, size)
    program = exact(model, size, name)
    assert error_in_float64(program, model, batch=1) < 1e-10
    prefixes = {n for n, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)}
    assert {conv.name for conv in program.convolutions} == prefixes


def test_resnet50_is_fused_to_its_layers() -> None:
    model = models.build("resnet50")
    program = trace(model, (3, 224, 224), "resnet50")
    steps = [step.name for step in program.steps]
    assert len(program.convolutions) == 54
    others = set(steps) - {conv.name for conv in program.convolutions}
    assert others == {"maxpool", "avgpool", "fc.plain"}
    by_name = {conv.name: conv for conv in program.convolutions}
    last = by_name["layer1.0.conv3"]
    assert (last.residual, last.activation) == (True, "relu")
    assert (last.input_size, last.output_size) == ((64, 56, 56), (256, 56, 56))
    shortcut = by_name["layer1.0.downsample.0"]
    assert (shortcut.residual, shortcut.activation) == (False, "none")
    assert by_name["conv1"].output_size == (64, 112, 112)
    fc = by_name["fc"]
    assert (fc.weight.shape, fc.input_size) == ((1000, 2048, 1, 1), (2048, 1, 1))
    assert all(c.weight.dtype == c.bias.dtype == torch.float32 for c in program.convolutions)
    # 4.09 billion multiply-adds: the figure that everybody quotes for ResNet50.
    assert sum(c.dense_flops for c in program.convolutions) == pytest.approx(8.18e9, rel=1e-3)


def test_zeros_stay_zeros_when_batch_norm_is_folded() -> None:
    model = models.build("resnet20")
    with torch.no_grad():
        model.layer1[0].conv1.weight[:, 3:] = 0
    models.calibrate(model, (3, 32, 32))
    conv = next(
        c for c in trace(model, (3, 32, 32), "n").convolutions if c.name == "layer1.0.conv1"
    )
    assert conv.weight[:, 3:].count_nonzero() == 0
    assert conv.weight[:, :3].count_nonzero() == conv.weight[:, :3].numel()


def test_a_shared_module_keeps_its_name_and_its_steps_differ() -> None:
    program = trace(nets.randomised(nets.SharedConv()), SIZE, "net")
    assert [c.name for c in program.convolutions] == ["conv", "conv"]
    assert len({step.name for step in program.steps}) == len(program.steps)


def test_the_model_and_its_input_are_left_alone() -> None:
    model = nets.randomised(nets.InPlace()).train()
    before = copy.deepcopy(model.state_dict())
    program = trace(model, SIZE, "net")
    assert model.training
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])
    x = torch.randn(2, *SIZE, dtype=torch.float64)
    copied = x.clone()
    reference.run(program, x)
    assert torch.equal(x, copied)


class Branches(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) if x.sum() > 0 else x


class Transposed(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.ConvTranspose2d(3, 3, 2))


class Reflected(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Conv2d(3, 3, 3, padding=1, padding_mode="reflect"))


class Pair(Branches):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.conv(x), x


class ThroughAView(Branches):
    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        y.flatten(1).relu_()  # rectifies y behind the tracer's back
        return y


class Dynamic(Branches):
    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.conv2d(x, self.conv.weight * x.mean())


class Narrow(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Flatten(), nn.Linear(7, 2))


@pytest.mark.parametrize(
    ("net", "part"),
    [
        (Branches, "'net' cannot be traced: .*control flow"),
        (Transposed, "layer '0' is a ConvTranspose2d, which csbench cannot run"),
        (Reflected, "layer '0' has padding mode 'reflect'"),
        (Pair, "returns a tuple; expected one tensor"),
        (ThroughAView, "differs from it by .* writes to a view"),
        (Dynamic, "weights that depend on the image"),
        (Narrow, "'net' on 3x9x8 images: operation '1' .* fails: "),
    ],
)
def test_what_cannot_be_traced_is_named(net: type[nn.Module], part: str) -> None:
    with pytest.raises(ModelError, match=part):
        trace(net().eval(), SIZE, "net")
