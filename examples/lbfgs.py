"""Training by L-BFGS: SciPy's optimiser on the flat vector of a model's parameters.

On a problem small enough for full batches, a quasi-Newton method takes larger and better steps than gradient descent
(Liu and Nocedal, "On the limited memory BFGS method for large scale optimization", 1989). SciPy calls a function of one
vector that returns the loss and its gradient; `vector_to_parameters` and `gradients_to_vector` are all it takes.

    python examples/lbfgs.py

It ends in a picture, lbfgs.png: the second half of the series, which the model has not seen, predicted step by step.
"""

import argparse
import math

import numpy as np

import fastrnn
from fastrnn import plot


def series(length: int = 400) -> np.ndarray:
    """A sine whose frequency is modulated by another, (length,) in [-1, 1]."""
    t = np.arange(length)
    return np.sin(0.2 * t + 3 * np.sin(0.02 * t))


def objective(model, loss, x, targets):
    """A function of the parameters as one vector -> (loss of the whole batch, its gradient), as SciPy takes it."""
    rule = fastrnn.bptt.Full()

    def value_and_gradient(vector):
        model.vector_to_parameters(vector)
        model.zero_grad()
        value, _ = rule.gradients(model, loss, x, targets)
        return value, model.gradients_to_vector()

    return value_and_gradient


def fit(model, loss, x, targets, iterations: int = 150):
    """Minimise the loss over the parameters of `model`, which keeps the best; returns SciPy's result."""
    try:
        from scipy.optimize import minimize
    except ImportError:
        raise SystemExit("this example needs SciPy: pip install scipy") from None
    result = minimize(
        objective(model, loss, x, targets),
        model.parameters_to_vector(),
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": iterations},
    )
    model.vector_to_parameters(result.x)
    return result


def main(arguments: list[str] | None = None) -> dict[str, float]:
    """Learn to predict the series one step ahead, and draw it; returns the losses, root mean square errors."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--plot", metavar="FILE", default="lbfgs.png", help="picture to write (default: %(default)s)")
    options = parser.parse_args(arguments)
    axes = plot.new_figure("this example", 8, 4).subplots()
    values = series()
    x, targets = values[:-1, None, None], values[1:, None, None]  # (T,B,F): one sequence of one feature
    model = fastrnn.Sequential(
        fastrnn.GRU(1, 16, dtype="float64", seed=0), fastrnn.Linear(16, 1, dtype="float64", seed=1)
    )
    loss, half = fastrnn.MSE(), len(x) // 2
    before, _ = loss(model(x[:half])[0], targets[:half])
    result = fit(model, loss, x[:half], targets[:half])
    y, _ = model(x)  # through the first half into the second, which it has not seen
    persistence, _ = loss(np.ascontiguousarray(x[half:]), targets[half:])
    losses = {
        "before training": before,
        "trained": result.fun,
        "second half": loss(y[half:], targets[half:])[0],
        "second half, last value as the prediction": persistence,
    }
    print(f"L-BFGS: {result.nit} iterations, {result.nfev} times loss and gradient, {model.num_parameters} parameters")
    for name, value in losses.items():
        print(f"  {name:42} RMSE {math.sqrt(value):.4f}")
    plot.forecast(None, values[1 : half + 1], y[half:, 0, 0], actual=targets[half:, 0, 0], ax=axes)
    axes.set(title="A GRU trained by L-BFGS on the first half, one step ahead on the second", ylabel="value")
    plot.save(axes, options.plot)
    print(f"picture: {options.plot}")
    return {name: math.sqrt(value) for name, value in losses.items()}


if __name__ == "__main__":
    main()
