"""Turn a traced deploy form into a graph of operations on planes.

A tensor of four or more dimensions is an array of planes. Reshaping, transposing, slicing, splitting and concatenating
its leading dimensions happens here, on plane indices, and leaves no operation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.fx import Node

from compactnets.deploy.formats.registry import trace_program
from compactnets.deploy.planar.arrays import Builder, RefusedError, Scaled, UnsupportedError, Value, Weights
from compactnets.deploy.planar.graph import Graph, Numbers

UNARY = {
    "relu": "relu",
    "relu6": "relu6",
    "sigmoid": "sigmoid",
    "hardsigmoid": "hardsigmoid",
    "hardswish": "hardswish",
    "silu": "silu",
}
NOTHING = ("dropout", "feature_dropout", "contiguous", "clone", "alias", "identity", "detach", "lift_fresh_copy")
JOINING = {"add": "plus", "mul": "times"}


def trace(model: nn.Module, example: Tensor) -> tuple[Graph, list[Weights], list[tuple[int, ...]]]:
    """Trace a deploy form on one image, (1, C, H, W).

    Returns:
        the graph, its weights, and the shapes of the network's outputs, which are concatenated in the graph's.

    Raises:
        UnsupportedError: an operator that the planar engine does not support; the message has its name and place.
    """
    program = trace_program(model, example, any_shape=False)
    signature = program.graph_signature
    state = {**program.state_dict, **program.constants}
    held = {
        **signature.inputs_to_parameters,
        **signature.inputs_to_buffers,
        **signature.inputs_to_lifted_tensor_constants,
    }
    _, channels, height, width = example.shape
    builder = Builder(planes=channels)
    found: dict[Node, Any] = {}
    results: list[Any] = []
    for node in program.graph.nodes:
        if node.op == "placeholder":
            if node.name in held:
                found[node] = state[held[node.name]].detach()
            else:
                cells = builder.new_cells(range(channels)).reshape(1, channels)
                found[node] = Value(cells, (height, width), spatial=True)
        elif node.op == "call_function":
            arguments, options = torch.fx.node.map_arg((node.args, node.kwargs), found.__getitem__)
            try:
                found[node] = _apply(builder, node, arguments, options)
            except RefusedError as refused:
                raise UnsupportedError(_refusal(node, str(refused))) from None
        elif node.op == "output":
            pairs = zip(node.args[0], signature.output_specs, strict=True)
            # tensors modified in place are listed as well as the outputs
            results = [found.get(each) for each, spec in pairs if _is_result(spec)]
    if not results or not all(isinstance(result, Value) and result.cells.shape[0] == 1 for result in results):
        raise UnsupportedError(
            "the planar engine supports outputs that are tensors computed from one image, found another kind of output"
        )
    if not builder.operations:
        raise UnsupportedError("the planar engine supports networks with at least one operation, found none")
    graph = Graph(
        channels=channels,
        height=height,
        width=width,
        operations=tuple(builder.operations),
        results=tuple(plane for result in results for plane in builder.read(result)),
    )
    graph.check()
    return graph, builder.weights, [result.shape for result in results]


def _is_result(spec: Any) -> bool:
    return bool(spec.kind == torch.export.graph_signature.OutputKind.USER_OUTPUT)


def _refusal(node: Node, what: str) -> str:
    stack = node.meta.get("nn_module_stack") or {}
    place = next((path for path, _ in reversed(list(stack.values())) if path), "")
    name = str(node.target).removesuffix(".default")
    at, how = f" at {place}" if place else "", f" with {what}" if what else ""
    return f"the planar engine does not support {name}{at}{how}"


def _apply(builder: Builder, node: Node, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
    """Interpret one node; arguments are :class:`Value`, tensors or Python values."""
    target = node.target
    if getattr(target, "__name__", "") == "getitem":
        return arguments[0][arguments[1]]
    name = getattr(target, "_opname", str(target))
    names = [argument.name for argument in target._schema.arguments] if hasattr(target, "_schema") else []
    given = {**dict(zip(names, arguments, strict=False)), **options}
    in_place = name.endswith("_") and not name.startswith("_")
    name = name.removesuffix("_") if in_place else name
    if name in NOTHING or name == "dequantize":  # whose numbers are those of the quantisation before
        return arguments[0]
    activation = UNARY.get(name) or _clamp(name, given)
    if name == "dequantize_channels":
        return Scaled(given["q"], given["scales"])
    if activation:
        source = arguments[0]
        if not isinstance(source, Value):
            raise RefusedError("an input that is not an image")
        made = builder.add("combine", builder.read(source), source.cells.size, source.size, last=activation)
        return _results(builder, source, made, in_place)
    if name in JOINING:
        return _join(builder, JOINING[name], given, in_place)
    if in_place or name not in RULES or not isinstance(arguments[0], (Value, list, tuple)):
        raise RefusedError("")
    return RULES[name](builder, given)


def _results(builder: Builder, like: Value, made: Sequence[int], in_place: bool) -> Value:
    """Return the new planes as a tensor shaped ``like`` another one; in place, they replace its planes."""
    if in_place:
        for cell, plane in zip(like.cells.flat, made, strict=True):
            builder.cells[cell] = plane
        return like
    return Value(builder.new_cells(list(made)).reshape(like.cells.shape), like.size, like.spatial)


def _clamp(name: str, given: dict[str, Any]) -> str | None:
    if name == "hardtanh" and (given.get("min_val", -1), given.get("max_val", 1)) == (0, 6):
        return "relu6"
    if name == "clamp" and (given.get("min"), given.get("max")) == (0, 6):
        return "relu6"
    return "relu" if name == "clamp" and (given.get("min"), given.get("max")) == (0, None) else None


def _join(builder: Builder, role: str, given: dict[str, Any], in_place: bool) -> Value:
    one, other = given["self"], given["other"]
    if not isinstance(one, Value) or not isinstance(other, Value):
        raise RefusedError("a number or constant tensor")
    if given.get("alpha", 1) != 1:
        raise RefusedError(f"alpha {given['alpha']}")
    if one.size != other.size and role == "times" and (1, 1) in (one.size, other.size):
        if one.size == (1, 1):
            one, other = other, one
        if one.cells.shape != other.cells.shape:
            raise RefusedError(f"shapes {one.shape} and {other.shape}")
        planes, by = builder.read(one), builder.read(other)
        made = builder.add("scale", planes, len(planes), one.size, times=tuple(by))
        if in_place and one is not given["self"]:
            raise RefusedError("an in-place result of another shape")
        return _results(builder, one, made, in_place)
    if one.shape != other.shape:
        raise RefusedError(f"shapes {one.shape} and {other.shape}")
    planes = builder.read(one)
    given_role: dict[str, Any] = {role: tuple(builder.read(other))}
    made = builder.add("combine", planes, len(planes), one.size, **given_role)
    return _results(builder, one, made, in_place)


def _image(value: Any) -> Value:
    if not isinstance(value, Value) or not value.spatial or value.cells.ndim != 2:
        raise RefusedError(
            f"an input of shape {value.shape}" if isinstance(value, Value) else "an input that is not an image"
        )
    return value


def _pair(value: Any, default: int | None = None) -> tuple[int, int]:
    values = list(value) if isinstance(value, (list, tuple)) else [value]
    if not values and default is not None:
        values = [default]
    return (int(values[0]), int(values[-1]))


def _spread(size: tuple[int, int], window: Any, stride: Any, padding: Any, dilation: Any) -> list[int]:
    return [(size[i] + 2 * padding[i] - dilation[i] * (window[i] - 1) - 1) // stride[i] + 1 for i in range(2)]


def _made(builder: Builder, planes: Sequence[int], size: tuple[int, int]) -> Value:
    return Value(builder.new_cells(list(planes)).reshape(1, -1), size, spatial=True)


def _convolution(builder: Builder, given: dict[str, Any]) -> Value:
    source, weight, bias = _image(given["input"]), given["weight"], given.get("bias")
    if not isinstance(weight, (Tensor, Scaled)):
        raise RefusedError("computed weights")
    stride, dilation = _pair(given.get("stride", 1), 1), _pair(given.get("dilation", 1), 1)
    padding = given.get("padding", 0)
    groups = given.get("groups", 1)
    window = tuple(weight.shape[2:])
    if isinstance(padding, str):
        extra = [(size - 1) * step for size, step in zip(window, dilation, strict=True)]
        if padding == "same" and any(each % 2 for each in extra):
            raise RefusedError("asymmetric padding")
        padding = [each // 2 for each in extra] if padding == "same" else 0
    padding = _pair(padding, 0)
    size = _spread(source.size, window, stride, padding, dilation)
    outputs = weight.shape[0]
    made = builder.add(
        "convolution",
        builder.read(source),
        outputs,
        (size[0], size[1]),
        _weights(weight, bias),
        groups=groups,
        window=window,
        stride=stride,
        dilation=dilation,
        top=padding[0],
        left=padding[1],
    )
    return _made(builder, made, (size[0], size[1]))


def _weights(weight: Tensor | Scaled, bias: Tensor | Scaled | None) -> Weights:
    outputs = weight.shape[0]
    if isinstance(weight, Scaled):
        if isinstance(bias, Tensor):
            raise RefusedError("int8 weights and a bias in float")
        biases = np.zeros(outputs, np.int32) if bias is None else bias.integers.int().numpy()
        return Weights(weight.integers.to(torch.int8).numpy(), biases, weight.scales.double().numpy())
    if isinstance(bias, Scaled):
        raise RefusedError("weights in float and an int32 bias")
    values = np.zeros(outputs, np.float32) if bias is None else bias.float().numpy()
    return Weights(weight.float().numpy(), values)


def _quantize(builder: Builder, given: dict[str, Any]) -> Value:
    """A mark that ``integers.lower`` replaces: its planes are integers from here on."""
    source = given["x"]
    numbers = Numbers(zero=given["zero_point"], factor=given["scale"])
    planes = builder.read(source)
    made = builder.add("quantize", planes, len(planes), source.size, numbers=numbers)
    return _results(builder, source, made, in_place=False)


def _batch_norm(builder: Builder, given: dict[str, Any]) -> Value:
    source = _image(given["input"])
    if given.get("training"):
        raise RefusedError("training=True")
    mean, variance = given["running_mean"].double(), given["running_var"].double()
    scale = (variance + given["eps"]).rsqrt() * (1 if given["weight"] is None else given["weight"].double())
    shift = (0 if given["bias"] is None else given["bias"].double()) - mean * scale
    channels = source.cells.size
    made = builder.add(
        "convolution",
        builder.read(source),
        channels,
        source.size,
        Weights(scale.float().numpy().reshape(-1, 1, 1, 1), shift.float().numpy()),
        groups=channels,
    )
    return _made(builder, made, source.size)


def _linear(builder: Builder, given: dict[str, Any]) -> Value:
    source, weight, bias = given["input"], given["weight"], given.get("bias")
    if not isinstance(source, Value) or source.spatial or source.cells.shape[0] != 1 or source.cells.ndim != 2:
        raise RefusedError(f"an input of shape {getattr(source, 'shape', None)}")
    outputs = weight.shape[0]
    made = builder.add("dense", builder.read(source), outputs, (1, 1), _weights(weight, bias))
    return Value(builder.new_cells(list(made)).reshape(1, -1), (1, 1), spatial=False)


def _pool(kind: str) -> Callable[[Builder, dict[str, Any]], Value]:
    def rule(builder: Builder, given: dict[str, Any]) -> Value:
        source = _image(given["self"])
        window = _pair(given["kernel_size"])
        stride = _pair(given.get("stride") or window)
        padding, dilation = _pair(given.get("padding", 0), 0), _pair(given.get("dilation", 1), 1)
        size = []
        for axis in range(2):
            span = source.size[axis] + 2 * padding[axis] - dilation[axis] * (window[axis] - 1) - 1
            places = span // stride[axis] + 1
            if given.get("ceil_mode") and span % stride[axis]:
                places += places * stride[axis] < source.size[axis] + padding[axis]
            size.append(places)
            outside = padding[axis] or (places - 1) * stride[axis] + window[axis] > source.size[axis]
            counted = given.get("count_include_pad", True) and not given.get("ceil_mode")
            if kind == "average" and outside and not counted:
                raise RefusedError("a mean that excludes the padding")
        if kind == "average" and given.get("divisor_override"):
            raise RefusedError("divisor_override")
        planes = builder.read(source)
        made = builder.add(
            kind,
            planes,
            len(planes),
            (size[0], size[1]),
            window=window,
            stride=stride,
            dilation=dilation,
            top=padding[0],
            left=padding[1],
        )
        return _made(builder, made, (size[0], size[1]))

    return rule


def _adaptive(builder: Builder, given: dict[str, Any]) -> Value:
    source, wanted = _image(given["self"]), _pair(given["output_size"])
    if wanted == source.size:
        return source
    if wanted == (1, 1):
        planes = builder.read(source)
        return _made(builder, builder.add("mean", planes, len(planes), (1, 1)), (1, 1))
    if source.size[0] % wanted[0] or source.size[1] % wanted[1]:
        raise RefusedError(f"{source.size} pixels to {wanted}")
    window = [source.size[0] // wanted[0], source.size[1] // wanted[1]]
    return _pool("average")(builder, {"self": source, "kernel_size": window})


def _pad(builder: Builder, given: dict[str, Any]) -> Value:
    source, pads = _image(given["self"]), [int(pad) for pad in given["pad"]]
    if given.get("mode", "constant") != "constant" or given.get("value") or len(pads) != 4 or min(pads) < 0:
        raise RefusedError(f"pad {pads}, mode {given.get('mode', 'constant')} and value {given.get('value')}")
    left, right, top, bottom = pads
    size = (source.size[0] + top + bottom, source.size[1] + left + right)
    planes = builder.read(source)
    return _made(builder, builder.add("average", planes, len(planes), size, top=top, left=left), size)


def _bilinear(builder: Builder, given: dict[str, Any]) -> Value:
    source = _image(given.get("input", given.get("self")))
    factors = given.get("scale_factors") or (given.get("scales_h"), given.get("scales_w"))
    size = given.get("output_size") or [int(side * by) for side, by in zip(source.size, factors, strict=True)]
    wanted, aligned = _pair(size), bool(given["align_corners"])
    for side, to, factor in zip(source.size, wanted, factors, strict=True):
        if factor is not None and side * factor != to:  # PyTorch then scales by the factor, not by the sizes
            raise RefusedError(f"a factor of {factor} for {side} pixels")
    planes = builder.read(source)
    if wanted == source.size:
        return _made(builder, planes, wanted)
    return _made(builder, builder.add("resize", planes, len(planes), wanted, aligned=aligned), wanted)


def _mean(builder: Builder, given: dict[str, Any]) -> Value:
    source = _image(given["self"])
    if sorted(axis % 4 for axis in given.get("dim") or ()) != [2, 3]:
        raise RefusedError(f"dimensions {given.get('dim')}")
    planes = builder.read(source)
    made = builder.add("mean", planes, len(planes), (1, 1))
    return Value(builder.new_cells(list(made)).reshape(1, -1), (1, 1), spatial=bool(given.get("keepdim")))


def _arrange(change: Callable[[np.ndarray, dict[str, Any]], np.ndarray]) -> Callable[[Builder, dict[str, Any]], Value]:
    """Make a rule from a function that only rearranges the array of cells."""

    def rule(builder: Builder, given: dict[str, Any]) -> Value:
        source = _whole(given["self"])
        return Value(change(source.cells, {**given, "rank": len(source.shape)}), source.size, source.spatial)

    return rule


def _whole(value: Value) -> Value:
    """Refuse flattened planes, whose rows and columns are in one dimension with them."""
    if not value.spatial and value.size != (1, 1):
        raise RefusedError("a rearrangement of flattened rows and columns")
    return value


def _axis(axis: int, given: dict[str, Any], cells: np.ndarray) -> int:
    """Return the array's dimension for a dimension of the tensor."""
    axis %= given["rank"]
    if axis >= cells.ndim:
        raise RefusedError("a rearrangement of rows or columns")
    return axis


def _transpose(cells: np.ndarray, given: dict[str, Any]) -> np.ndarray:
    return cells.swapaxes(_axis(given["dim0"], given, cells), _axis(given["dim1"], given, cells))


def _permute(cells: np.ndarray, given: dict[str, Any]) -> np.ndarray:
    dims = [axis % given["rank"] for axis in given["dims"]]
    if dims[cells.ndim :] != list(range(cells.ndim, given["rank"])):
        raise RefusedError("a rearrangement of rows or columns")
    return cells.transpose(dims[: cells.ndim])


def _slice(cells: np.ndarray, given: dict[str, Any]) -> np.ndarray:
    axis = _axis(given.get("dim", 0), given, cells)
    index = [slice(None)] * cells.ndim
    index[axis] = slice(given.get("start"), given.get("end"), given.get("step", 1))
    return cells[tuple(index)]


def _select(cells: np.ndarray, given: dict[str, Any]) -> np.ndarray:
    return cells.take(given["index"], axis=_axis(given["dim"], given, cells))


def _index_select(cells: np.ndarray, given: dict[str, Any]) -> np.ndarray:
    return cells.take(given["index"].numpy(), axis=_axis(given["dim"], given, cells))


def _unflatten(cells: np.ndarray, given: dict[str, Any]) -> np.ndarray:
    axis = _axis(given["dim"], given, cells)
    return cells.reshape(*cells.shape[:axis], *given["sizes"], *cells.shape[axis + 1 :])


def _reshape(builder: Builder, given: dict[str, Any]) -> Value:
    source = given["self"]
    shape = list(given["size"] if "size" in given else given["shape"])
    if -1 in shape:
        known = -int(np.prod(shape))
        shape[shape.index(-1)] = int(np.prod(source.shape)) // max(known, 1)
    return _shaped(source, shape)


def _shaped(source: Value, shape: list[int]) -> Value:
    if source.spatial and tuple(shape[-2:]) == source.size and len(shape) > 2:
        return Value(source.cells.reshape(shape[:-2]), source.size, spatial=True)
    if not source.spatial and source.size == (1, 1) and shape[-2:] == [1, 1] and len(shape) > 2:
        return Value(source.cells.reshape(shape[:-2]), source.size, spatial=True)
    if len(shape) == 2 and shape[0] == 1:  # rows and columns follow the planes: the order is unchanged
        return Value(source.cells.reshape(1, -1), source.size, spatial=False)
    raise RefusedError(f"shapes {source.shape} and {tuple(shape)}")


def _flatten(builder: Builder, given: dict[str, Any]) -> Value:
    source = given["self"]
    shape, rank = list(source.shape), len(source.shape)
    start, end = given.get("start_dim", 0) % rank, given.get("end_dim", -1) % rank
    return _shaped(source, [*shape[:start], int(np.prod(shape[start : end + 1])), *shape[end + 1 :]])


def _squeeze(builder: Builder, given: dict[str, Any]) -> Value:
    source = given["self"]
    dims = given.get("dim", range(len(source.shape)))
    dims = [axis % len(source.shape) for axis in (dims if isinstance(dims, (list, tuple, range)) else [dims])]
    if not source.spatial or source.size != (1, 1) or source.cells.ndim != 2:
        raise RefusedError(f"an input of shape {source.shape}")
    if set(dims) >= {2, 3} and 0 not in dims:
        return Value(source.cells, source.size, spatial=False)
    raise RefusedError(f"dimensions {dims}")


def _concatenate(builder: Builder, given: dict[str, Any]) -> Value:
    parts = given["tensors"]
    if any(part.size != parts[0].size or part.spatial != parts[0].spatial for part in parts):
        raise RefusedError("tensors of different sizes")
    rank = {"rank": len(parts[0].shape)}
    # a concatenation is a copy: later in-place changes of its parts do not affect it
    cells = np.concatenate([part.cells for part in parts], axis=_axis(given.get("dim", 0), rank, parts[0].cells))
    planes = [builder.cells[cell] for cell in cells.flat]
    return Value(builder.new_cells(planes).reshape(cells.shape), parts[0].size, parts[0].spatial)


def _parts(builder: Builder, given: dict[str, Any]) -> list[Value]:
    source = _whole(given["self"])
    axis = _axis(given.get("dim", 0), {"rank": len(source.shape)}, source.cells)
    total = source.cells.shape[axis]
    sizes = given.get("split_sizes") or given.get("split_size")
    if "chunks" in given:
        sizes = -(-total // given["chunks"])
    assert sizes is not None  # given in one of three ways
    ends = np.cumsum(sizes)[:-1] if isinstance(sizes, (list, tuple)) else range(int(sizes), total, int(sizes))
    return [Value(part, source.size, source.spatial) for part in np.split(source.cells, list(ends), axis=axis)]


RULES: dict[str, Callable[[Builder, dict[str, Any]], Any]] = {
    "conv2d": _convolution,
    "quantize": _quantize,
    "batch_norm": _batch_norm,
    "linear": _linear,
    "max_pool2d": _pool("maximum"),
    "avg_pool2d": _pool("average"),
    "adaptive_avg_pool2d": _adaptive,
    "mean": _mean,
    "pad": _pad,
    "constant_pad_nd": _pad,
    "upsample_bilinear2d": _bilinear,
    "transpose": _arrange(_transpose),
    "permute": _arrange(_permute),
    "slice": _arrange(_slice),
    "select": _arrange(_select),
    "index_select": _arrange(_index_select),
    "unflatten": _arrange(_unflatten),
    "view": _reshape,
    "reshape": _reshape,
    "_unsafe_view": _reshape,
    "flatten": _flatten,
    "squeeze": _squeeze,
    "cat": _concatenate,
    "concat": _concatenate,
    "split": _parts,
    "split_with_sizes": _parts,
    "chunk": _parts,
}
