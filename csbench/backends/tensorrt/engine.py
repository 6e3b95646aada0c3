"""A TensorRT engine: built for one shape and precision, run on torch's current stream."""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from csbench.backends.base import TORCH_DTYPE
from csbench.backends.tensorrt.translate import Translation
from csbench.core.case import Case
from csbench.errors import BackendError

Size = tuple[int, int, int]

_FLAGS = {"tf32": "TF32", "fp16": "FP16", "bf16": "BF16"}
_TYPES = {"fp32": "float32", "tf32": "float32", "fp16": "float16", "bf16": "bfloat16"}
_MOST_SEARCH = 5  # TensorRT's highest optimisation level: every tactic is tried


class Engine:
    """`define(translation, inputs)` gives the output's tensor; `sparse` lets 2:4 weights be used.

    Calling it takes NCHW tensors of the given sizes, and allocates the result by torch.empty.
    """

    def __init__(
        self, define: Callable[[Translation, list[Any]], Any], sizes: Sequence[Size], case: Case,
        *, sparse: bool,
    ) -> None:  # fmt: skip
        trt = importlib.import_module("tensorrt")
        logger = trt.Logger(trt.Logger.ERROR)
        builder = trt.Builder(logger)
        network = builder.create_network(0)
        self._names = [f"input{i}" for i in range(len(sizes))]
        kind = getattr(trt, _TYPES[case.dtype])
        inputs = [
            network.add_input(name, kind, (case.batch, *size))
            for name, size in zip(self._names, sizes, strict=True)
        ]
        translation = Translation(trt, network)
        output = define(translation, inputs)
        output.name, output.dtype = "output", kind
        network.mark_output(output)
        plan = builder.build_serialized_network(network, _config(trt, builder, case, sparse))
        if plan is None:
            raise BackendError(f"tensorrt built no engine for {case.dtype}, batch {case.batch}")
        self._runtime = trt.Runtime(logger)  # an engine lives no longer than its runtime
        self._engine = self._runtime.deserialize_cuda_engine(plan)
        self._context = self._engine.create_execution_context()
        self._shape = tuple(self._engine.get_tensor_shape("output"))
        self._kind = TORCH_DTYPE[case.dtype]
        inspector = self._engine.create_engine_inspector()
        said = inspector.get_engine_information(trt.LayerInformationFormat.JSON)
        self._layers: list[Any] = json.loads(said)["Layers"]

    def __call__(self, *tensors: Tensor) -> Tensor:
        given = [tensor.to(self._kind).contiguous() for tensor in tensors]
        out = torch.empty(self._shape, dtype=self._kind, device=given[0].device)
        for name, tensor in zip((*self._names, "output"), (*given, out), strict=True):
            self._context.set_tensor_address(name, tensor.data_ptr())
        stream = torch.cuda.current_stream().cuda_stream
        if not self._context.execute_async_v3(stream):
            raise BackendError("tensorrt could not run its engine; its log says why")
        return out

    def tactic(self, name: str) -> str:
        """The kernel that runs the layer of that name; empty where the engine does not say."""
        # Fused layers are named after all their parts: "conv1 + relu1".
        part = re.compile(rf"(?<![\w.]){re.escape(name)}(?![\w.])")
        for layer in self._layers:
            if isinstance(layer, dict) and part.search(layer.get("Name", "")):
                return str(layer.get("TacticName", ""))
        return ""


def _config(trt: Any, builder: Any, case: Case, sparse: bool) -> Any:
    config = builder.create_builder_config()
    config.builder_optimization_level = _MOST_SEARCH
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # or tactics have no names
    config.clear_flag(trt.BuilderFlag.TF32)  # which is on by default
    wanted = [_FLAGS[case.dtype]] if case.dtype in _FLAGS else []
    for flag in [*wanted, *(["SPARSE_WEIGHTS"] if sparse else [])]:
        config.set_flag(getattr(trt.BuilderFlag, flag))
    return config
