"""From a model's name to what builds it: ours, `timm:NAME`, `torchvision:NAME`, `FILE.py:factory`.

A name that holds code (`FILE.py:factory`) is run only because the user typed it.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from csbench.core.axes import MODELS
from csbench.errors import ModelError, unknown
from csbench.models import cifar, mobilenet, resnet, vgg

ImageSize = tuple[int, int, int]

BUILT_IN: dict[str, Callable[..., nn.Module]] = {
    "resnet18": resnet.resnet18,
    "resnet34": resnet.resnet34,
    "resnet50": resnet.resnet50,
    "resnet101": resnet.resnet101,
    "resnet152": resnet.resnet152,
    "vgg16_bn": vgg.vgg16_bn,
    "vgg19_bn": vgg.vgg19_bn,
    "mobilenet_v2": mobilenet.mobilenet_v2,
    "resnet20": cifar.resnet20,
    "resnet32": cifar.resnet32,
    "resnet18-cifar": cifar.resnet18_cifar,
}


@dataclass(frozen=True)
class Factory:
    """What builds a model: `make(**arguments)`, and the (C, H, W) image it is made for."""

    name: str
    make: Callable[..., nn.Module]
    input_size: ImageSize
    own: bool = False  # one of csbench's: built without memory, then initialised by csbench

    def __call__(self, num_classes: int | None = None) -> nn.Module:
        arguments = {} if num_classes is None else {"num_classes": num_classes}
        try:
            model = self.make(**arguments)
        except TypeError as error:
            raise ModelError(
                f"model '{self.name}' does not take {arguments or 'no arguments'}: {error}; "
                "expected a function factory(num_classes=...) that returns a torch.nn.Module"
            ) from error
        if not isinstance(model, nn.Module):
            raise ModelError(
                f"model '{self.name}' gave a {type(model).__name__}; expected a torch.nn.Module"
            )
        return model


def resolve(name: str) -> Factory:
    """The factory of a model; raises ModelError with the nearest names or how to install."""
    if name in BUILT_IN:
        return Factory(name, BUILT_IN[name], MODELS[name], own=True)
    source, colon, target = name.rpartition(":")
    if not colon:
        also = "(or timm:NAME, torchvision:NAME, FILE.py:factory)"
        raise ModelError(unknown("model", name, BUILT_IN, also))
    if source == "timm":
        return _from_timm(name, target)
    if source == "torchvision":
        return _from_torchvision(name, target)
    if source.endswith(".py"):
        return _from_file(name, Path(source), target)
    raise ModelError(
        f"model '{name}' has source '{source}'; expected timm:NAME, torchvision:NAME, "
        "FILE.py:factory or a name of csbench's such as resnet50"
    )


def _library(name: str, package: str) -> ModuleType:
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise ModelError(
            f"model '{name}' needs {package} ({error}); pip install {package.partition('.')[0]}"
        ) from error


def _from_timm(name: str, target: str) -> Factory:
    timm = _library(name, "timm")
    if not timm.is_model(target):
        raise ModelError(unknown("timm model", target, timm.list_models()))
    config: Any = timm.get_pretrained_cfg(target)
    size = tuple(config.input_size) if config is not None else (3, 224, 224)

    def make(**arguments: Any) -> nn.Module:
        model: nn.Module = timm.create_model(target, pretrained=False, **arguments)
        return model

    return Factory(name, make, size)


def _from_torchvision(name: str, target: str) -> Factory:
    models = _library(name, "torchvision.models")
    if target not in models.list_models(module=models):
        raise ModelError(unknown("torchvision model", target, models.list_models(module=models)))

    def make(**arguments: Any) -> nn.Module:
        model: nn.Module = models.get_model(target, weights=None, **arguments)
        return model

    return Factory(name, make, (3, 299, 299) if target == "inception_v3" else (3, 224, 224))


def _from_file(name: str, path: Path, target: str) -> Factory:
    if not path.is_file():
        raise ModelError(f"model '{name}': no file '{path}'; expected FILE.py:factory")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise ModelError(
            f"model '{name}': '{path}' fails: {type(error).__name__}: {error}"
        ) from error
    factory = getattr(module, target, None)
    if not callable(factory):
        own = [n for n, f in vars(module).items() if inspect.isfunction(f) or inspect.isclass(f)]
        raise ModelError(unknown(f"factory in '{path}'", target, own))
    # A factory says that it is made for another image by `factory.input_size = (3, 32, 32)`.
    return Factory(name, factory, tuple(getattr(factory, "input_size", (3, 224, 224))))
