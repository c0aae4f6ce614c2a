"""Layers and models in words: `repr` of a layer is one call, that of a model a table, and in notebooks one in HTML."""

import html
import inspect
from collections.abc import Iterator
from typing import NamedTuple

_UNITS = ("bytes", "kB", "MB", "GB", "TB")


class Row(NamedTuple):
    """A layer in a model: how deep in its containers, its number there, and the rest in words."""

    depth: int
    number: int
    layer: str
    shape: str
    parameters: str


def call(layer, without: tuple[str, ...] = ()) -> str:
    """The call that makes such a layer: `LSTM(3, 32, num_layers=2)`, without what is by default, or in `without`."""
    config = {name: value for name, value in layer.config().items() if name not in without}
    parameters = inspect.signature(type(layer)).parameters
    required = [p.name for p in parameters.values() if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD]
    arguments = [repr(config.pop(name)) for name in required if name in config]
    for name, value in config.items():
        if name not in parameters or value != parameters[name].default:
            arguments.append(f"{name}={value!r}")
    return f"{type(layer).__name__}({', '.join(arguments)})"


def rows(model) -> Iterator[Row]:
    """A row for each layer of a model, those in its containers below them; T and B are steps and sequences."""
    yield from _rows(model, "T" if model._takes_sequences else None, model._features, 0)


def _rows(container, steps, features, depth):
    widths = container._widths(features)
    for number, (layer, width, output) in enumerate(zip(container.layers, widths, widths[1:], strict=False)):
        after = layer._output_steps(steps)
        order = ("B", after) if container.batch_first else (after, "B")
        sizes = [*(size for size in order if size is not None), "…" if output is None else output]
        text = call(layer, without=("dtype", "batch_first"))  # which are the model's
        yield Row(depth, number, text, f"({', '.join(map(str, sizes))})", f"{layer.num_parameters:,}")
        if hasattr(layer, "layers"):
            yield from _rows(layer, steps, width, depth + 1)
        steps = after


def table(model) -> str:
    """The model as lines of text."""
    lines = [(call(model, without=("dtype",)), "output", "parameters")]
    lines += [(f"{'   ' * r.depth}  {r.number:<2} {r.layer}", r.shape, r.parameters) for r in rows(model)]
    first, second, third = (max(map(len, column)) for column in zip(*lines, strict=True))
    aligned = [f"{name:{first}}  {shape:{second}}  {count:>{third}}" for name, shape, count in lines]
    return "\n".join([*aligned, _total(model)])


def html_table(model) -> str:
    """The same as an HTML table."""
    lines = [
        f'<tr><td style="text-align: left; padding-left: {1 + 2 * row.depth}em">{row.number}&ensp;'
        f'<code>{html.escape(row.layer)}</code></td><td style="text-align: left">{html.escape(row.shape)}</td>'
        f"<td>{row.parameters}</td></tr>"
        for row in rows(model)
    ]
    title = html.escape(call(model, without=("dtype",)))
    head = f'<tr><th style="text-align: left"><code>{title}</code></th><th>output</th><th>parameters</th></tr>'
    total = f'<tr><td colspan="3" style="text-align: left">{html.escape(_total(model))}</td></tr>'
    return f"<table><thead>{head}</thead><tbody>{''.join(lines)}</tbody><tfoot>{total}</tfoot></table>"


def _total(model):
    size, unit = model.parameters.size * model.dtype.itemsize, 0
    while size >= 1000 and unit + 1 < len(_UNITS):
        size, unit = size / 1000, unit + 1
    shown = f"{size:.3g}" if unit else f"{size}"
    return f"{model.num_parameters:,} parameters in {model.dtype.name}, {shown} {_UNITS[unit]}"
