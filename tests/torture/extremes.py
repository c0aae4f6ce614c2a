"""NaN, infinity, and the largest and smallest numbers in all that is no recurrent layer, against PyTorch in float64.

What is not finite there must not be finite here, and what is finite here must be right, unless something has overflowed
for all to see.
"""

import copy
import functools

import numpy as np

import fastrnn

_LARGE = (np.nan, np.inf, -np.inf, 1e30, -1e30, 3e38, -3e38)
_VALUES = (*_LARGE, 1e-45, -1e-40, -0.0)
_PLAIN = (np.nan, np.inf, -np.inf, -0.0)  # beside which denormals don't matter
_NORMAL = float(np.finfo(np.float32).smallest_normal)
_TINY = 1e-7  # rounding of numbers about 1, where the result is 0


def _mixed(rng, *shape, values=_VALUES):
    """Normal numbers, a few of them from `values`."""
    x = rng.standard_normal(shape, dtype=np.float32)
    for _ in range(int(rng.integers(1, 4))):
        x[tuple(int(rng.integers(n)) for n in shape)] = rng.choice(values)
    return x


def problem(subject, rng, torch):
    """What went wrong with random numbers in one of `SUBJECTS`; None if nothing.

    A subject yields names, ours and theirs, and of what rounding errors are a part unless it is the largest of theirs.
    """
    results = [(what, *map(_array, arrays)) for what, *arrays in SUBJECTS[subject](rng, torch)]
    finite = [(np.isfinite(ours), np.isfinite(theirs)) for _, ours, theirs, *_ in results]
    for (what, *_), (here, there) in zip(results, finite, strict=True):
        if (here & ~there).any():
            return f"{what} is finite, and should not be"
    if any((~here & there).any() for here, there in finite):  # an overflow that is seen
        return None
    for (what, ours, theirs, *scale), (here, _) in zip(results, finite, strict=True):
        found, expected = ours[here], theirs[here]
        scale = np.broadcast_to(*scale, ours.shape)[here] if scale else np.abs(expected).max(initial=0)
        if not np.allclose(found, expected, rtol=1e-4, atol=1e-5 * scale + _TINY):
            return f"{what} is {ours}, and should be {theirs}"
    return None


def _array(value):
    value = value.detach() if hasattr(value, "detach") else value
    return np.asarray(value, np.float64)


def _tensor(torch, array):
    tensor = torch.tensor(array)
    return tensor.double() if tensor.is_floating_point() else tensor


def _losses(rng, torch):
    """Values and gradients of every loss."""
    functional = torch.nn.functional
    rows, width = int(rng.integers(1, 9)), int(rng.integers(1, 9))
    y = _mixed(rng, rows, width)
    targets = _mixed(rng, rows, width, values=_LARGE) / 2  # differences are no denormals, and 0 nowhere
    quantiles = np.array([0.1, 0.5, 0.9])

    def quantile(y, targets):
        error = targets[..., None] - y.reshape(rows, width, 3)  # the quantiles of a number stand side by side
        return torch.maximum(torch.tensor(quantiles) * error, torch.tensor(quantiles - 1) * error).mean()

    probabilities = rng.random((rows, width), dtype=np.float32)
    classes = rng.integers(width, size=rows)
    for ours, theirs, y_, wanted in (
        (fastrnn.MSE(), functional.mse_loss, y, targets),
        (fastrnn.MAE(), functional.l1_loss, y, targets),
        (fastrnn.Huber(0.7), lambda *a: functional.huber_loss(*a, delta=0.7), y, targets),
        (fastrnn.BinaryCrossEntropy(), functional.binary_cross_entropy_with_logits, y, probabilities),
        (fastrnn.CrossEntropy(), functional.cross_entropy, y, classes),
        (fastrnn.Quantile(quantiles), quantile, _mixed(rng, rows, 3 * width), targets),
    ):
        value, dy = ours(y_, wanted)
        prediction = _tensor(torch, y_).requires_grad_()
        expected = theirs(prediction, _tensor(torch, wanted))
        yield f"{ours!r}", value, expected
        if np.isfinite(y_).all() and np.isfinite(wanted).all():  # PyTorch's gradient of NaN is finite now and then
            expected.backward()
            yield f"the gradient of {ours!r}", dy, prediction.grad
        else:
            bad = ~np.isfinite(y_).all(-1) | ~np.isfinite(_array(wanted)).reshape(rows, -1).all(-1)
            fine = np.where(np.isfinite(dy[~bad]), 0, np.nan)
            yield f"the gradient of {ours!r} in other rows", fine, np.zeros_like(fine)


def _optimizers(rng, torch):
    """Parameters and state after some updates."""
    lr, decay = 0.01, float(rng.choice([0, 0.1]))
    pairs = (
        (fastrnn.SGD(lr, weight_decay=decay), "SGD", {"weight_decay": decay}),
        (fastrnn.SGD(lr, momentum=0.9, nesterov=True), "SGD", {"momentum": 0.9, "nesterov": True}),
        (fastrnn.RMSprop(lr, momentum=0.5, centered=True), "RMSprop", {"momentum": 0.5, "centered": True}),
        (fastrnn.RMSprop(lr, weight_decay=decay), "RMSprop", {"weight_decay": decay}),
        (fastrnn.Adagrad(lr, lr_decay=0.1), "Adagrad", {"lr_decay": 0.1}),
        (fastrnn.Adam(lr, amsgrad=True), "Adam", {"amsgrad": True}),
        (fastrnn.AdamW(lr, weight_decay=decay), "AdamW", {"weight_decay": decay}),
    )
    ours, kind, options = pairs[rng.integers(len(pairs))]
    size = int(rng.integers(1, 40))
    model = fastrnn.Linear(size, 1, bias=False, seed=0)
    start = _mixed(rng, size) if rng.random() < 0.3 else rng.standard_normal(size, dtype=np.float32)
    model.vector_to_parameters(start)
    parameter = torch.nn.Parameter(_tensor(torch, start))
    theirs = getattr(torch.optim, kind)([parameter], lr=lr, **options)
    magnitudes = np.abs(_array(start))
    for _ in range(int(rng.integers(1, 4))):
        gradients = _mixed(rng, size)
        magnitudes += lr * np.abs(_array(gradients))
        model.parameters.gradients[:] = gradients
        parameter.grad = _tensor(torch, gradients)
        ours.step(model)
        theirs.step()
    scale = [magnitudes] if kind == "SGD" else []  # which may go back by as much as it went
    yield f"what {ours!r} updates", model.parameters_to_vector(), parameter, *scale
    state = theirs.state[parameter]
    for name, array in ours.state_dict().items():
        own = name.rpartition(".")[2]
        if isinstance(array, np.ndarray) and state.get(own) is not None:
            yield f"{name} of {ours!r}", array.ravel(), state[own]


def _clipping(rng, torch):
    """Norms, and the gradients afterwards."""
    size, bound = int(rng.integers(1, 40)), float(rng.uniform(0.1, 2))
    model, gradients = fastrnn.Linear(size, 1, bias=False, seed=0), _mixed(rng, size)
    for by_norm in (True, False):
        model.parameters.gradients[:] = gradients
        parameter = torch.nn.Parameter(torch.zeros(size).double())
        parameter.grad = _tensor(torch, gradients)
        if by_norm:
            norm, expected = fastrnn.clip_grad_norm(model, bound), torch.nn.utils.clip_grad_norm_([parameter], bound)
            yield "the norm", norm, expected
        else:
            fastrnn.clip_grad_value(model, bound)
            torch.nn.utils.clip_grad_value_([parameter], bound)
        yield f"gradients clipped {'by norm' if by_norm else 'by value'}", model.gradients_to_vector(), parameter.grad


def _layers(rng, torch):
    """Forward and backward pass of the layers without a state of their own."""
    nn, width = torch.nn, int(rng.integers(1, 9))
    x = _mixed(rng, int(rng.integers(1, 6)), int(rng.integers(1, 5)), width)
    linear, table = fastrnn.Linear(width, 5, seed=0), fastrnn.Embedding(7, width, seed=0)
    for layer in (linear, table):
        layer.vector_to_parameters(_mixed(rng, layer.num_parameters, values=_PLAIN))
    weights = {name: _tensor(torch, array).requires_grad_() for name, array in linear.state_dict().items()}
    rows = _tensor(torch, table.state_dict()["weight"]).requires_grad_()
    tokens = rng.integers(0, 7, x.shape[:2])
    for layer, of, function, own in (
        (linear, x, lambda x: nn.functional.linear(x, *weights.values()), weights),
        (table, tokens, lambda x: nn.functional.embedding(x, rows), {"weight": rows}),
        (fastrnn.Tanh(), x, torch.tanh, {}),
        (fastrnn.Sigmoid(), x, torch.sigmoid, {}),
        (fastrnn.ReLU(), x, torch.relu, {}),
        (fastrnn.Last(), x, lambda x: x[-1], {}),
        (fastrnn.MeanPool(), x, lambda x: x.mean(0), {}),
        (fastrnn.MaxPool(), x, lambda x: x.max(0).values, {}),
        (fastrnn.Residual(fastrnn.Tanh()), x, lambda x: x + torch.tanh(x), {}),
        (fastrnn.Repeat(3), x[0], lambda x: x.repeat(3, 1, 1), {}),
    ):
        name, model = type(layer).__name__, fastrnn.Sequential(layer)
        workspace = model.workspace(max(3, len(x)), x.shape[1])
        y, _ = model.forward(of, workspace=workspace)
        y, dy = y.copy(), _mixed(rng, *y.shape, values=_PLAIN)
        seen = np.where(np.abs(of) < _NORMAL, 0, of) if name == "ReLU" else of  # denormals are 0 to it
        given = _tensor(torch, seen)
        given = given.requires_grad_() if given.is_floating_point() else given
        expected = function(given)
        magnitudes = [np.abs(_array(x)).mean(0)] if name == "MeanPool" else []  # 1e30 and -1e30 may cancel
        yield f"y of {name}", y, expected, *magnitudes
        dx, _ = model.backward(dy, workspace=workspace)
        expected.backward(_tensor(torch, dy))
        if dx is not None:
            magnitudes = [np.abs(_array(dy)).sum(0)] if name == "Repeat" else []
            yield f"dx of {name}", dx, given.grad, *magnitudes
        for key, parameter in own.items():
            magnitudes = []
            if name == "Embedding":
                magnitudes = [np.zeros(parameter.shape)]
                np.add.at(magnitudes[0], tokens, np.abs(_array(dy)))
            yield f"the gradient of {name}'s {key}", layer.grad_dict()[key], parameter.grad, *magnitudes


def _penalties(rng, torch):
    """`ActivityRegularization` and its gradient."""
    l2, l1, slowness = 0.1 * rng.integers(3, size=3)
    layer, x = fastrnn.ActivityRegularization(l2, l1, slowness), _mixed(rng, int(rng.integers(1, 6)), 3, 4)
    workspace = layer.workspace(*x.shape[:2])
    y, _ = layer.forward(x, workspace=workspace)
    y, dy = y.copy(), rng.standard_normal(x.shape, dtype=np.float32)
    workspace.penalty_scale = 1.0
    penalty, (dx, _) = workspace.penalty(), layer.backward(dy, workspace=workspace)
    given = _tensor(torch, x).requires_grad_()
    expected = l2 * (given**2).sum() + l1 * given.abs().sum() + slowness * (given.diff(dim=0) ** 2).sum()
    (expected + (given * _tensor(torch, dy)).sum()).backward()
    yield "y of ActivityRegularization", y, x
    yield "its penalty", penalty, expected
    yield "dx of ActivityRegularization", dx, given.grad, [np.abs(np.nan_to_num(_array(x), posinf=0, neginf=0)).max()]


def _noise(rng, torch):
    """Dropout: each number times its factor. Zoneout: new, and NaN, or kept as it was."""
    x, dropout = _mixed(rng, 5, 4, 6), fastrnn.Dropout(0.4, seed=int(rng.integers(100)))
    workspace = dropout.workspace(5, 4)
    y = dropout.forward(x, workspace=workspace)[0].copy()
    factors, _ = dropout.backward(np.ones_like(x), workspace=workspace)
    with np.errstate(all="ignore"):
        yield "y of Dropout", y, x.astype(np.float64) * factors
    for kind in (fastrnn.LSTM, fastrnn.GRU):
        layer, x = kind(3, 8, zoneout=0.3, seed=0), rng.standard_normal((6, 2, 3), dtype=np.float32)
        step = int(rng.integers(6))
        x[step, 1, 0] = np.nan
        y, _ = layer.forward(x, workspace=layer.workspace(6, 2))
        before = np.concatenate([np.zeros_like(y[:1]), y[:-1]])
        kept = (y[step:, 1] == before[step:, 1]) | np.isnan(before[step:, 1])
        yield f"y of {kind.__name__} with zoneout", np.where(kept, 0, y[step:, 1]), np.where(kept, 0, np.nan)
        yield f"y of {kind.__name__} in another sequence", y[:, 0] * 0, np.zeros_like(y[:, 0])


def _own_nets(rng, torch):
    """Nets that PyTorch has not, against themselves in float64; NaN is in all that comes after it."""
    steps, batch = (int(n) for n in rng.integers(1, 7, 2))
    x = rng.standard_normal((steps, batch, 3), dtype=np.float32)
    t, b = int(rng.integers(steps)), int(rng.integers(batch))
    x[t, b, 0] = value = rng.choice([np.nan, 1e-45, 1e-40, 1e12, -1e12, -0.0])
    for kind, sizes in ((fastrnn.LayerNormLSTM, (3, 4)), (fastrnn.PeepholeLSTM, (3, 4))):
        layers = [kind(*sizes, dtype=dtype, seed=0) for dtype in ("float32", "float64")]
        layers[1].load_state_dict({name: a.astype(np.float64) for name, a in layers[0].state_dict().items()})
        dy = rng.standard_normal((steps, batch, sizes[-1]), dtype=np.float32)
        (y, dx), (expected, d_expected) = (_both_ways(layer, x, dy) for layer in layers)
        if np.isnan(value):
            expected[t:, b] = d_expected[: t + 1, b] = np.nan
        for what, ours, theirs in (("y", y, expected), ("dx", dx, d_expected)):
            # where what is normalised is nearly constant, rounding errors are multiplied
            scale = [100 * np.abs(np.nan_to_num(theirs)).max()] if kind is fastrnn.LayerNormLSTM else []
            yield f"{what} of {kind.__name__}", ours, theirs, *scale


def _both_ways(layer, x, dy):
    workspace = layer.workspace(*x.shape[:2])
    y = layer.forward(x.astype(layer.dtype), workspace=workspace)[0].copy()
    return y, layer.backward(dy.astype(layer.dtype), workspace=workspace)[0].copy()


def _jordan(rng, torch):
    """`Jordan` with each of its functions, and the same net step by step."""
    steps, batch = (int(n) for n in rng.integers(1, 5, 2))
    x = _mixed(rng, steps, batch, 3, values=_PLAIN)
    inner, outer = str(rng.choice(["tanh", "relu", "sigmoid"])), rng.choice([None, "tanh", "sigmoid"])
    layer = fastrnn.Jordan(3, 4, 2, nonlinearity=inner, output_nonlinearity=outer, seed=0)
    if rng.random() < 0.3:
        layer.vector_to_parameters(_mixed(rng, layer.num_parameters, values=_PLAIN))
    dy = _mixed(rng, steps, batch, 2, values=_PLAIN)
    y, dx = _both_ways(layer, x, dy)
    own = {name: _tensor(torch, array).requires_grad_() for name, array in layer.state_dict().items()}
    w_ih, w_hh, w_ho, b_ih, b_ho = (
        own[f"{n}_l0"] for n in ("weight_ih", "weight_hh", "weight_ho", "bias_ih", "bias_ho")
    )
    given, fed, expected = _tensor(torch, x).requires_grad_(), torch.zeros(batch, 2).double(), []
    for x_t in given:
        fed = getattr(torch, inner)(x_t @ w_ih.T + b_ih + fed @ w_hh.T) @ w_ho.T + b_ho
        fed = fed if outer is None else getattr(torch, outer)(fed)
        expected.append(fed)
    expected = torch.stack(expected)
    expected.backward(_tensor(torch, dy))
    name = repr(layer)
    yield f"y of {name}", y, expected
    yield f"dx of {name}", dx, given.grad
    for key, parameter in own.items():
        yield f"the gradient of {name}'s {key}", layer.grad_dict()[key], parameter.grad


@functools.cache
def _fitted(kind, cell, pooling):
    """An estimator with two outputs, and what it predicts from."""
    from fastrnn import estimators

    x = np.random.default_rng(0).standard_normal((6, 4, 2))
    y = {"RNNRegressor": x[:, 0], "RNNClassifier": np.arange(6) % 2, "SequenceTagger": x}[kind]
    more = {"task": "regress"} if kind == "SequenceTagger" else {"pooling": pooling}
    return getattr(estimators, kind)(cell, 3, epochs=1, random_state=0, **more).fit(x, y), x


def _estimators(rng, torch):
    """A weight that is NaN: all outputs are NaN, or, of the last layer, the one it is for; and none becomes a class."""
    kind = str(rng.choice(["RNNRegressor", "RNNClassifier", "SequenceTagger"]))
    estimator, x = _fitted(kind, str(rng.choice(["lstm", "gru", "rnn"])), str(rng.choice(["last", "mean", "max"])))
    estimator = copy.deepcopy(estimator)
    arrays = estimator.model_.state_dict()
    name = str(rng.choice(list(arrays)))
    index = tuple(int(rng.integers(n)) for n in arrays[name].shape)
    arrays[name][index] = np.nan
    estimator.model_.load_state_dict(arrays)
    broken = [index[0]] if name in list(arrays)[-2:] else [0, 1]  # weight and bias of the last layer
    if kind == "RNNClassifier":
        try:
            found = estimator.predict(x)
        except fastrnn.NonFiniteError:
            found = np.nan
        yield f"a class where {name} is NaN", found, np.full(np.shape(found), np.nan)
        found, broken = estimator.predict_proba(x), [0, 1]
    else:
        found = estimator.predict(x)
    expected = np.zeros(found.shape)
    expected[..., broken] = np.nan
    yield f"what {kind} predicts where {name} is NaN", found * 0, expected


SUBJECTS = {
    "losses": _losses, "optimizers": _optimizers, "clipping": _clipping, "layers": _layers, "noise": _noise,
    "penalties": _penalties, "own nets": _own_nets, "Jordan": _jordan, "estimators": _estimators,
}  # fmt: skip
