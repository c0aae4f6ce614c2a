"""A `GradientFlow` as text."""

import numpy as np


def table(flow) -> str:
    """Norms by lag, Jacobians, gates and verdicts, for people."""
    shown = _lags(flow.lags)
    head = f"gradient flow over {flow.steps} steps of {flow.batch} sequences, loss {flow.loss:.4g}"
    rows = [["‖∂L_t/∂s_{t−k}‖", "k =", *(str(flow.lags[i]) for i in shown)]]
    for layer in flow.layers:
        name = f"{layer.name} {layer.kind}"
        for letter, norms in layer.by_lag.items():
            rows.append([name, letter, *(f"{norms[i]:.1e}" for i in shown)])
            name = ""
    lines = [head, "", *_aligned(rows)]
    if flow.jacobian_steps.size:
        rows = [["largest singular value of ∂s_t/∂s_{t−1}", "median", "lowest", "highest"]]
        for layer in flow.layers:
            values = layer.singular_values
            rows.append([layer.name, *(f"{value:.3g}" for value in (np.median(values), values.min(), values.max()))])
        lines += ["", *_aligned(rows)]
    rows = [["gates", "", "low", "high", "mean"]]
    for layer in flow.layers:
        for letter, gate in layer.gates.items():
            rows.append([layer.name, letter, f"{gate.low:.1%}", f"{gate.high:.1%}", f"{gate.mean:.2f}"])
    if len(rows) > 1:
        lines += ["", *_aligned(rows)]
    return "\n".join([*lines, "", *(f"{layer.name}: {layer.verdict}" for layer in flow.layers)])


def _lags(lags):
    """Indices of the lags to show: powers of two, and the last."""
    return sorted({2**n - 1 for n in range(lags.size.bit_length())} | {lags.size - 1})


def _aligned(rows):
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for first, *others in rows:
        cells = (cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True))
        yield "  ".join([first.ljust(widths[0]), *cells])
