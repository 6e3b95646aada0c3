"""Parameter counts and names are torchvision's; seeds decide the weights and nothing else does."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from csbench import models
from csbench.core import axes
from csbench.errors import ModelError

COUNTS = {
    "resnet18": 11_689_512,
    "resnet34": 21_797_672,
    "resnet50": 25_557_032,
    "resnet101": 44_549_160,
    "resnet152": 60_192_808,
    "vgg16_bn": 138_365_992,
    "vgg19_bn": 143_678_248,
    "mobilenet_v2": 3_504_872,
}


def skeleton(name: str, num_classes: int | None = None) -> nn.Module:
    """The model without memory."""
    with torch.device("meta"):
        return models.resolve(name)(num_classes)


def count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(("name", "expected"), COUNTS.items())
def test_counts_are_torchvisions(name: str, expected: int) -> None:
    assert count(skeleton(name)) == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [("resnet20", 272_474), ("resnet32", 466_906), ("resnet18-cifar", 11_173_962)],
)
def test_cifar_counts_for_ten_classes(name: str, expected: int) -> None:
    assert count(skeleton(name, 10)) == expected
    assert skeleton(name).get_submodule("fc").out_features == 100


@pytest.mark.parametrize(
    ("name", "keys", "tensors"),
    [
        ("resnet18", ["conv1.weight", "bn1.running_var", "layer1.0.conv1.weight",
                      "layer2.0.downsample.0.weight", "layer2.0.downsample.1.num_batches_tracked",
                      "layer4.1.bn2.bias", "fc.weight", "fc.bias"], 122),
        ("resnet50", ["layer1.0.downsample.0.weight", "layer3.5.conv3.weight",
                      "layer4.2.bn3.running_mean"], 320),
        ("vgg16_bn", ["features.0.weight", "features.0.bias", "features.1.running_mean",
                      "features.40.weight", "classifier.0.weight", "classifier.6.bias"], 97),
        ("mobilenet_v2", ["features.0.0.weight", "features.1.conv.0.0.weight",
                          "features.1.conv.1.weight", "features.2.conv.1.0.weight",
                          "features.17.conv.3.bias", "features.18.1.running_var",
                          "classifier.1.weight"], 314),
        ("resnet20", ["conv1.weight", "layer2.0.downsample.0.weight", "layer3.2.conv2.weight",
                      "fc.bias"], 128),
    ],
)  # fmt: skip
def test_keys_are_torchvisions(name: str, keys: list[str], tensors: int) -> None:
    state = skeleton(name).state_dict()
    assert set(keys) <= set(state)
    assert len(state) == tensors


def test_a_seed_decides_the_weights_and_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    first, again, other = (models.build("resnet20", seed=s) for s in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), before)
    assert not first.training
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name
    assert not torch.equal(first.conv1.weight, other.conv1.weight)


def test_default_inputs() -> None:
    assert models.names() == tuple(axes.MODELS)  # the names that are known without torch
    assert models.default_input("resnet50") == (3, 224, 224)
    assert models.default_input("resnet20") == (3, 32, 32)


@pytest.mark.parametrize("name", models.names())
def test_every_model_runs(name: str) -> None:
    size = models.default_input(name)
    with torch.device("meta"):
        out = skeleton(name, 10)(torch.empty(2, *size))
    assert out.shape == (2, 10)


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("resnet51", "did you mean resnet50"),
        ("hub:resnet50", "expected timm:NAME"),
        ("no.py:f", "no file 'no.py'"),
        ("timm:resnet50", "pip install timm"),
        ("torchvision:resnet50", "pip install torchvision$"),
    ],
)
def test_a_name_that_does_not_resolve(
    name: str, part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for package in ("timm", "torchvision", "torchvision.models"):
        monkeypatch.setitem(__import__("sys").modules, package, None)  # as if not installed
    with pytest.raises(ModelError, match=part):
        models.build(name)


FILE = """
from torch import nn
def tiny(num_classes=5):
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                         nn.Linear(8, num_classes))
tiny.input_size = (3, 8, 8)
def number():
    return 1
"""


def test_a_factory_in_a_file(tmp_path, monkeypatch) -> None:
    (tmp_path / "net.py").write_text(FILE)
    monkeypatch.chdir(tmp_path)
    before = torch.get_rng_state()
    first, again = models.build("net.py:tiny", seed=1), models.build("net.py:tiny", seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first[0].weight, again[0].weight)
    assert models.default_input("net.py:tiny") == (3, 8, 8)
    assert models.build("net.py:tiny", num_classes=7)[3].out_features == 7
    for name, part in [
        ("net.py:tinny", "did you mean tiny"),
        ("net.py:number", "gave a int; expected a torch.nn.Module"),
    ]:
        with pytest.raises(ModelError, match=part):
            models.build(name)
    with pytest.raises(ModelError, match="does not take"):
        models.build("net.py:number", num_classes=3)


def test_a_file_that_fails_is_named(tmp_path) -> None:
    path = tmp_path / "bad.py"
    path.write_text("1 / 0")
    with pytest.raises(ModelError, match=r"bad\.py' fails: ZeroDivisionError"):
        models.build(f"{path}:f")
