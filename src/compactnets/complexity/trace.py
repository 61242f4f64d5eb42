"""Run a network on the meta device and record its operators."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from compactnets.complexity.cost import Cost, LayerCost
from compactnets.complexity.groups import GroupTracker
from compactnets.complexity.memory import LiveActivations
from compactnets.complexity.operations import RUNNING_NORM, Work, macs_of, tensors_of, uses_batch_statistics, work_of
from compactnets.errors import InputError
from compactnets.nn import ChannelShuffle


def profile(model: nn.Module, input_size: tuple[int, int, int] = (3, 224, 224), batch_size: int = 1) -> Cost:
    """Measure the cost of a network in eager inference.

    The network is copied to the meta device and runs there in evaluation mode: nothing is computed, no weight is
    copied and ``model`` is not touched. Its hooks do not run.

    Args:
        model: the network, on any device and in any mode.
        input_size: channels, height and width of one image.
        batch_size: images in the batch whose activations are measured; counts are always per image.

    Raises:
        InputError: a size that is not positive, or one that the network does not take (other channels, too small).
    """
    network = _meta_copy(model)
    x = _input(input_size, batch_size)
    recorder = _Recorder(network, x)
    _run(network, x, recorder)
    return recorder.cost(tuple(input_size), batch_size)  # type: ignore[arg-type]


def count(model: nn.Module, input_size: tuple[int, int, int] = (3, 224, 224)) -> tuple[int, int]:
    """Return only ``(macs, params)`` of :func:`profile`, in a fraction of the time.

    A network already on the meta device and in evaluation mode runs without a copy.

    Raises:
        InputError: as :func:`profile`.
    """
    in_training = any(module.training for module in model.modules())
    ready = not in_training and all(tensor.is_meta for tensor in _weights(model))
    x = _input(input_size, 1)
    counter = _MacCounter(x)
    _run(model if ready else _meta_copy(model), x, counter)
    return counter.macs, sum(parameter.numel() for parameter in model.parameters())


class _Meta(TorchDispatchMode):
    """Runs each operator on the meta device, after one check for a clear error.

    Args:
        x: the network's input.
    """

    def __init__(self, x: Tensor) -> None:
        super().__init__()
        self._x = x

    def call(self, func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        name = func.overloadpacket.__name__
        if name in RUNNING_NORM and not uses_batch_statistics(name, args):
            # The meta device runs this through a decomposition in Python, a millisecond each and most of the run.
            return torch.empty_like(args[0]), args[0].new_empty(0), args[0].new_empty(0)
        if name == "convolution" and args[0] is self._x:
            transposed, groups = args[6], args[8]
            found, expected = args[0].shape[1], args[1].shape[0] if transposed else args[1].shape[1] * groups
            if found != expected:
                raise InputError(
                    f"the network takes images of {expected} channels, found {found}: give an input size of "
                    f"{expected} x height x width, or build the network with in_chans={found}"
                )
        return func(*args, **kwargs)


class _MacCounter(_Meta):
    """Counts only multiply-adds."""

    macs = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = self.call(func, args, kwargs or {})
        self.macs += macs_of(func, args, kwargs or {}, out)
        return out


class _Recorder(_Meta):
    """Records the work of every operator under the innermost module whose ``forward`` calls it."""

    def __init__(self, network: nn.Module, x: Tensor) -> None:
        super().__init__(x)
        self._network = network
        self._running = [""]  # names of the modules whose forward runs, innermost last
        self._work: dict[str, Work] = defaultdict(Work)
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._groups = GroupTracker()
        self._memory = LiveActivations(_weights(network))
        self._memory.add([x], "")
        for name, module in network.named_modules():
            module.register_forward_pre_hook(lambda module, inputs, name=name: self._running.append(name))
            module.register_forward_hook(lambda module, inputs, out, name=name: self._leave(name, module, inputs, out))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = self.call(func, args, kwargs)
        layer, outputs = self._running[-1], tensors_of(out)
        self._work[layer] = Work(*map(sum, zip(self._work[layer], work_of(func, args, kwargs, out), strict=True)))
        self._memory.add(outputs, layer)
        name = func.overloadpacket.__name__
        if name == "convolution":
            self._groups.convolution(args[0], args[1], args[8], out)
        elif outputs:
            self._groups.operation(name, tensors_of((args, kwargs)), outputs[0])
        return out

    def _leave(self, name: str, module: nn.Module, inputs: tuple[Any, ...], out: Any) -> None:
        self._running.pop()
        if isinstance(out, Tensor):
            self._shapes[name] = tuple(out.shape)
        if isinstance(module, (ChannelShuffle, nn.ChannelShuffle)):
            self._groups.shuffle(inputs[0], module.groups, out)

    def cost(self, input_size: tuple[int, int, int], batch_size: int) -> Cost:
        macs = sum(work.macs for work in self._work.values()) // batch_size
        counted: set[nn.Parameter] = set()  # a shared parameter belongs to the first module that has it
        layers = []
        for name, module in self._network.named_modules():
            own = set(module.parameters(recurse=False)) - counted
            counted |= own
            work = self._work[name]
            layer = LayerCost(
                name=name,
                type=type(module).__name__,
                output_shape=self._shapes.get(name),
                macs=work.macs // batch_size,
                other_operations=work.other_operations // batch_size,
                moved_elements=work.moved_elements // batch_size,
                params=sum(parameter.numel() for parameter in own),
                macs_share=work.macs // batch_size / macs if macs else 0.0,
            )
            if any(work) or layer.params:
                layers.append(layer)
        return Cost(
            input_size=input_size,
            batch_size=batch_size,
            macs=sum(layer.macs for layer in layers),
            other_operations=sum(layer.other_operations for layer in layers),
            moved_elements=sum(layer.moved_elements for layer in layers),
            params=sum(layer.params for layer in layers),
            buffers=sum(buffer.numel() for buffer in self._network.buffers()),
            weight_bytes=sum(tensor.numel() * tensor.element_size() for tensor in _weights(self._network)),
            peak_activation_bytes=self._memory.peak_bytes,
            peak_layer=self._memory.peak_layer,
            inter_group=self._groups.summary(),
            layers=tuple(layers),
        )


def _weights(model: nn.Module) -> Iterator[Tensor]:
    yield from model.parameters()
    yield from model.buffers()


def _meta_copy(model: nn.Module) -> nn.Module:
    """Copy a network's structure: its tensors become meta tensors, floating-point ones float32; hooks are left out."""
    memo: dict[int, Any] = {}
    for module in model.modules():
        attributes = (value for value in vars(module).values() if isinstance(value, Tensor))
        for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False), *attributes):
            dtype = torch.float32 if tensor.is_floating_point() else tensor.dtype
            meta = torch.empty_like(tensor, dtype=dtype, device="meta", requires_grad=False)
            memo[id(tensor)] = nn.Parameter(meta, requires_grad=False) if isinstance(tensor, nn.Parameter) else meta
    network = copy.deepcopy(model, memo).eval()
    for module in network.modules():
        module._forward_hooks.clear()
        module._forward_pre_hooks.clear()
    return network


def _input(input_size: Sequence[int], batch_size: int) -> Tensor:
    if len(input_size) != 3 or min(*input_size, batch_size) < 1:
        raise InputError(
            "expected a positive batch size and an input size of three positive numbers (channels, height, width), "
            f"found {batch_size} and {' '.join(map(str, input_size))}"
        )
    return torch.empty(batch_size, *input_size, device="meta")


def _run(network: nn.Module, x: Tensor, mode: TorchDispatchMode) -> None:
    try:
        with torch.no_grad(), mode:
            network(x)
    except InputError:
        raise
    except (RuntimeError, ValueError, AssertionError) as error:  # whatever a forward raises for a wrong shape
        size = tuple(x.shape[1:])
        made_for = (getattr(network, "pretrained_cfg", None) or {}).get("input_size", size)
        advice = f"; it is made for {_times(made_for)}" if made_for != size else ""
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"{type(network).__name__} cannot run on an input of {_times(size)}{advice} ({reason})"
        ) from error


def _times(sizes: Sequence[int]) -> str:
    return " x ".join(map(str, sizes))
