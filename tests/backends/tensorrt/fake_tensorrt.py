"""As much of TensorRT's Python interface as csbench uses, computed by torch on the CPU.

Builders, layers and engines take what the documented ones of TensorRT 10 take; an engine reads and
writes memory by address, as the real one does.
"""

from __future__ import annotations

import ctypes
import json
from collections.abc import Callable
from enum import Enum, IntEnum
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

__version__ = "10.3.0"
float32, float16, bfloat16 = torch.float32, torch.float16, torch.bfloat16
ActivationType = Enum("ActivationType", "RELU CLIP")
PoolingType = Enum("PoolingType", "MAX AVERAGE")
ReduceOperation = Enum("ReduceOperation", "AVG SUM")
ElementWiseOperation = Enum("ElementWiseOperation", "SUM PROD")
BuilderFlag = Enum("BuilderFlag", "TF32 FP16 BF16 SPARSE_WEIGHTS")
ProfilingVerbosity = IntEnum("ProfilingVerbosity", "LAYER_NAMES_ONLY DETAILED")
LayerInformationFormat = Enum("LayerInformationFormat", "ONELINE JSON")

builds: list[Any] = []  # the configuration of every engine that was built
sparse_layers: set[str] = set()  # for which a sparse kernel is found
builds_fail = False


class ITensor:
    def __init__(self, compute: Callable[[dict[Any, Tensor]], Tensor], shape: Any) -> None:
        self.compute, self.shape = compute, tuple(shape)
        self.name, self.dtype = "", float32

    def value(self, env: dict[Any, Tensor]) -> Tensor:
        """Computed once a run: a residual reads what another layer has read."""
        if self not in env:
            env[self] = self.compute(env)
        return env[self]


class Layer(SimpleNamespace):
    """Attributes may be set until the engine is built; `compute` reads them when it runs."""

    def get_output(self, index: int) -> ITensor:
        assert index == 0
        sizes = [torch.zeros(tensor.shape) for tensor in self.inputs]
        shape = self.compute(self, *sizes).shape
        return ITensor(lambda env: self.compute(self, *(x.value(env) for x in self.inputs)), shape)


class INetworkDefinition:
    def __init__(self) -> None:
        self.inputs: list[ITensor] = []
        self.outputs: list[ITensor] = []
        self.layers: list[Layer] = []

    def _add(self, compute: Any, *inputs: ITensor, **attributes: Any) -> Layer:
        self.layers.append(Layer(inputs=inputs, compute=compute, name="", **attributes))
        return self.layers[-1]

    def add_input(self, name: str, dtype: torch.dtype, shape: tuple[int, ...]) -> ITensor:
        tensor = ITensor(lambda env: env[name].float(), shape)
        tensor.name, tensor.dtype = name, dtype
        self.inputs.append(tensor)
        return tensor

    def mark_output(self, tensor: ITensor) -> None:
        self.outputs.append(tensor)

    def add_convolution_nd(
        self, input: ITensor, num_output_maps: int, kernel_shape: Any, kernel: Any, bias: Any
    ) -> Layer:
        weight = torch.from_numpy(kernel)
        assert weight.shape[0] == num_output_maps and tuple(weight.shape[2:]) == kernel_shape

        def compute(layer: Layer, x: Tensor) -> Tensor:
            return F.conv2d(
                x, weight, torch.from_numpy(bias), layer.stride_nd, layer.padding_nd,
                layer.dilation_nd, layer.num_groups,
            )  # fmt: skip

        return self._add(
            compute, input, stride_nd=(1, 1), padding_nd=(0, 0), dilation_nd=(1, 1), num_groups=1
        )

    def add_activation(self, input: ITensor, type: ActivationType) -> Layer:
        if type is ActivationType.RELU:
            return self._add(lambda layer, x: x.relu(), input)
        return self._add(lambda layer, x: x.clamp(layer.alpha, layer.beta), input, alpha=0, beta=0)

    def add_elementwise(self, one: ITensor, other: ITensor, op: ElementWiseOperation) -> Layer:
        assert op is ElementWiseOperation.SUM
        return self._add(lambda layer, x, y: x + y, one, other)

    def add_pooling_nd(self, input: ITensor, type: PoolingType, window_size: Any) -> Layer:
        assert type is PoolingType.MAX

        def compute(layer: Layer, x: Tensor) -> Tensor:
            return F.max_pool2d(x, window_size, layer.stride_nd, layer.padding_nd)

        return self._add(compute, input, stride_nd=(1, 1), padding_nd=(0, 0))

    def add_reduce(self, input: ITensor, op: ReduceOperation, axes: int, keep_dims: bool) -> Layer:
        dims = [d for d in range(4) if axes >> d & 1]
        assert op is ReduceOperation.AVG
        return self._add(lambda layer, x: x.mean(dims, keepdim=keep_dims), input)

    def add_shuffle(self, input: ITensor) -> Layer:
        return self._add(lambda layer, x: x.reshape(layer.reshape_dims), input)


class IBuilderConfig(SimpleNamespace):
    def set_flag(self, flag: BuilderFlag) -> None:
        self.flags.add(flag)

    def clear_flag(self, flag: BuilderFlag) -> None:
        self.flags.discard(flag)


class Logger:
    ERROR = 1

    def __init__(self, severity: int) -> None:
        pass


class Builder:
    def __init__(self, logger: Logger) -> None:
        pass

    def create_network(self, flags: int) -> INetworkDefinition:
        return INetworkDefinition()

    def create_builder_config(self) -> IBuilderConfig:
        return IBuilderConfig(flags={BuilderFlag.TF32}, builder_optimization_level=3)

    def build_serialized_network(self, network: INetworkDefinition, config: IBuilderConfig) -> Any:
        builds.append(config)
        return None if builds_fail else network


class Runtime:
    def __init__(self, logger: Logger) -> None:
        pass

    def deserialize_cuda_engine(self, plan: INetworkDefinition) -> Engine:
        return Engine(plan)


class Engine:
    def __init__(self, network: INetworkDefinition) -> None:
        self.network = network

    def create_execution_context(self) -> Context:
        return Context(self.network)

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        (output,) = self.network.outputs
        assert output.name == name
        return output.shape

    def create_engine_inspector(self) -> Engine:
        return self

    def get_engine_information(self, format: LayerInformationFormat) -> str:
        assert format is LayerInformationFormat.JSON
        named = [layer.name for layer in self.network.layers if layer.name]
        layers = [
            {
                "Name": f"{name} + {name}_relu",
                "TacticName": f"sm90_{'sparse_' if name in sparse_layers else ''}conv",
            }
            for name in named
        ]
        return json.dumps({"Layers": ["reformat 0", *layers], "Bindings": []})


class Context:
    def __init__(self, network: INetworkDefinition) -> None:
        self.network = network
        self.addresses: dict[str, int] = {}

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return True

    def execute_async_v3(self, stream_handle: int) -> bool:
        assert stream_handle == 7  # the current stream's
        env: dict[Any, Tensor] = {x.name: self._memory(x) for x in self.network.inputs}
        (output,) = self.network.outputs
        self._memory(output).copy_(output.value(env))
        return True

    def _memory(self, tensor: ITensor) -> Tensor:
        count = torch.Size(tensor.shape).numel()
        size = count * torch.empty((), dtype=tensor.dtype).element_size()
        raw = (ctypes.c_char * size).from_address(self.addresses[tensor.name])
        return torch.frombuffer(raw, dtype=tensor.dtype).view(tensor.shape)
