"""Cases that go through the layers.

Each `draw_…(rng, wide)` gives the description of a case and a function that runs it from scratch and returns all that
came out, as a list of arrays and numbers. Without `wide` the cells are those that most people have compiled.
"""

import itertools

import numpy as np

import fastrnn

from . import sizes

_CELLS = {
    "lstm": (fastrnn.LSTM, {}),
    "gru": (fastrnn.GRU, {}),
    "rnn tanh": (fastrnn.RNN, {}),
    "gru reset before": (fastrnn.GRU, {"reset_after": False}),
    "rnn relu": (fastrnn.RNN, {"nonlinearity": "relu"}),
    "rnn sigmoid": (fastrnn.RNN, {"nonlinearity": "sigmoid"}),
    "peephole": (fastrnn.PeepholeLSTM, {}),
    "layer norm": (fastrnn.LayerNormLSTM, {}),
}
_NOISY = {
    f"{name}, {', '.join(noise)}": (_CELLS[name][0], _CELLS[name][1] | noise)
    for name, *noises in (
        ("lstm", {"recurrent_dropout": 0.3}, {"zoneout": (0.2, 0.4)}, {"recurrent_dropout": 0.3, "zoneout": 0.2}),
        ("gru", {"recurrent_dropout": 0.3}, {"zoneout": 0.2}, {"recurrent_dropout": 0.3, "zoneout": 0.2}),
        ("gru reset before", {"recurrent_dropout": 0.3}, {"zoneout": 0.2}, {"recurrent_dropout": 0.3, "zoneout": 0.2}),
        ("rnn tanh", {"zoneout": 0.2}),
        ("rnn relu", {"zoneout": 0.2}),
        ("rnn sigmoid", {"zoneout": 0.2}),
    )
    for noise in noises
}
# (cell, dtype, whether the input is tokens)
_COMMON = [
    ("lstm", "float32", False), ("gru", "float32", False), ("lstm", "float32", True), ("rnn tanh", "float32", False),
    ("lstm", "float64", False),
]  # fmt: skip
EVERY_KERNEL = [(cell, "float32", tokens) for cell in (*_CELLS, *_NOISY) for tokens in (False, True)]
_EVERY = EVERY_KERNEL + [(cell, "float64", False) for cell in _CELLS]
_turns = itertools.count()
_turns_of_crowds = itertools.count()


def in_turn(entries, turns):
    """The next of `entries`, whose turn a count tells."""
    return entries[next(turns) % len(entries)]


def _state_parts(state):
    return [] if state is None else list(state) if isinstance(state, tuple) else [state]


def normal(rng, shape, dtype):
    return rng.standard_normal(shape).astype(dtype)


def _order(array, batch_first):
    return np.ascontiguousarray(array.swapaxes(0, 1)) if batch_first else array


def draw_recurrent(rng, wide, crowd=False):
    """A recurrent layer: inference, training in a workspace of its size and in a larger one, and steps."""
    cell, dtype, tokens = in_turn(_EVERY if wide else _COMMON, _turns)
    kind, own = (_CELLS | _NOISY)[cell]
    inputs, units = (sizes.few(rng) if crowd else sizes.features(rng, dtype) for _ in range(2))
    steps, batch, lengths = sizes.crowd(rng, next(_turns_of_crowds) % 2) if crowd else sizes.any_batch(rng)
    dilation = int(rng.choice([1, 1, 1, 2, 3]))
    options = own | {
        "num_layers": 1 if crowd else int(rng.choice([1, 1, 2, 3])),
        "batch_first": bool(rng.integers(2)), "dtype": dtype, "dilation": dilation,
        "bidirectional": dilation == 1 and bool(rng.integers(2)),
        "dropout": float(rng.choice([0, 0.3])), "variational": bool(rng.integers(2)),
        "initial_state": str(rng.choice(["zeros", "zeros", "learned"])), "seed": int(rng.integers(100)),
    }  # fmt: skip
    if cell != "layer norm":
        options["bias"] = bool(rng.integers(2))
    resets = sizes.maybe(rng, lambda: sizes.resets(rng, (steps, batch)), 0.3)
    with_state, room, seed = bool(rng.integers(2)), rng.integers(0, 3, 2), int(rng.integers(1 << 30))

    def run():
        layer, numbers = kind(inputs, units, **options), np.random.default_rng(seed)
        x = numbers.integers(0, inputs, (steps, batch)) if tokens else normal(numbers, (steps, batch, inputs), dtype)
        features = layer.directions * units
        dy = _order(normal(numbers, (steps, batch, features), dtype), layer.batch_first)
        parts = [normal(numbers, layer._state_shape(batch), dtype) for _ in range(2 * layer.states)]
        state, dstate = layer._pack_state(parts[: layer.states]), layer._pack_state(parts[layer.states :])
        if not with_state:
            state = dstate = None
        x = _order(x, layer.batch_first)
        more = {"lengths": lengths, "resets": None if resets is None else _order(resets, layer.batch_first)}
        y, final = layer.forward(x, state, **more)
        results = [y, *_state_parts(final)]
        for extra in ((0, 0), room):
            workspace = layer.workspace(steps + int(extra[0]), batch + int(extra[1]))
            for _ in range(2):
                y, final = layer.forward(x, state, **more, workspace=workspace)
                results += [y.copy(), *(part.copy() for part in _state_parts(final))]
                for of_pass in (*workspace.states(), *workspace.gates()):
                    results += of_pass.values()
                dx, d_initial = layer.backward(dy, dstate, workspace=workspace)
                results += [] if dx is None else [dx.copy()]
                results += [part.copy() for part in _state_parts(d_initial)]
        results.append(layer.gradients_to_vector())
        plain = kind(inputs, units, **own, dtype=dtype, seed=1)  # which takes single steps
        row = x[:, 0] if layer.batch_first else x[0]
        state_t = None
        for _ in range(2):
            y_t, state_t = plain.step(row, state_t)
            results += [y_t, *_state_parts(state_t), plain.step(row[0])[0]]
        return results

    what = f"{kind.__name__}({inputs}, {units}, **{options}), T={steps}, B={batch}, tokens={tokens}, seed={seed}"
    given = f"lengths={told(lengths)}, resets={told(resets)}, state={with_state}, room={room.tolist()}"
    return f"{what}, {given}", run


def draw_crowd(rng, wide):
    """A recurrent layer, or one without state, over more rows than are summed together."""
    return (draw_recurrent if rng.integers(2) else draw_stateless)(rng, wide, crowd=True)


def told(array):
    """Numbers for a description, unless there are too many to read."""
    if array is None or np.size(array) > 100:
        return None if array is None else f"{np.size(array)} numbers"
    return np.asarray(array).astype(int).tolist()


def draw_jordan(rng, wide):
    """The output-recurrent net."""
    dtype = str(rng.choice(sizes.DTYPES)) if wide else "float32"
    inputs, units, outputs = (sizes.features(rng, dtype) for _ in range(3))
    steps, batch = sizes.batch(rng)
    options = {
        "nonlinearity": str(rng.choice(["tanh", "relu", "sigmoid"])), "bias": bool(rng.integers(2)), "dtype": dtype,
        "batch_first": bool(rng.integers(2)), "seed": int(rng.integers(100)),
    }  # fmt: skip
    lengths = sizes.maybe(rng, lambda: sizes.lengths(rng, steps, batch))
    resets = sizes.maybe(rng, lambda: sizes.resets(rng, (steps, batch)))
    seed = int(rng.integers(1 << 30))

    def run():
        layer, numbers = fastrnn.Jordan(inputs, units, outputs, **options), np.random.default_rng(seed)
        x = _order(normal(numbers, (steps, batch, inputs), dtype), layer.batch_first)
        dy = _order(normal(numbers, (steps, batch, outputs), dtype), layer.batch_first)
        state, dstate = (normal(numbers, (1, batch, outputs), dtype) for _ in range(2))
        more = {"lengths": lengths, "resets": None if resets is None else _order(resets, layer.batch_first)}
        workspace = layer.workspace(steps, batch)
        results = [*layer.forward(x, state, **more)]
        results += [array.copy() for array in layer.forward(x, state, **more, workspace=workspace)]
        results += [array.copy() for array in layer.backward(dy, dstate, workspace=workspace)]
        return [*results, layer.gradients_to_vector(), *layer.step(x[:, 0] if layer.batch_first else x[0], state)]

    what = f"Jordan({inputs}, {units}, {outputs}, **{options}), T={steps}, B={batch}, seed={seed}"
    return f"{what}, lengths={told(lengths)}, resets={told(resets)}", run


def _stateless(name, rng, steps, dtype, crowd):
    """A layer without state, and its number of inputs; None: it takes tokens."""
    features, outputs = (sizes.few(rng) if crowd else sizes.features(rng, dtype) for _ in range(2))
    seed = int(rng.integers(100))
    if name == "Linear":
        return fastrnn.Linear(features, outputs, bias=bool(rng.integers(2)), dtype=dtype, seed=seed), features
    if name == "Embedding":
        return fastrnn.Embedding(features, outputs, dtype=dtype, seed=seed), None
    if name == "OneHot":
        return fastrnn.OneHot(features, dtype=dtype), None
    if name == "Dropout":
        return fastrnn.Dropout(0.4, dtype=dtype, seed=seed), features
    if name == "ActivityRegularization":
        return fastrnn.ActivityRegularization(0.1, 0.2, 0.3, dtype=dtype), features
    if name == "Repeat":
        return fastrnn.Repeat(steps, dtype=dtype), features
    return getattr(fastrnn, name)(dtype=dtype), features


_STATELESS = (
    "Linear", "Embedding", "OneHot", "Dropout", "ActivityRegularization", "Tanh", "ReLU", "Sigmoid", "Last", "MeanPool",
    "MaxPool", "Repeat",
)  # fmt: skip


def draw_stateless(rng, wide, crowd=False):
    """Every layer without state, one after the other, on one batch."""
    dtype = str(rng.choice(sizes.DTYPES)) if wide else "float32"
    steps, batch, lengths = sizes.crowd(rng, next(_turns_of_crowds) % 2) if crowd else sizes.any_batch(rng)
    resets = sizes.resets(rng, (steps, batch))
    batch_first, seed = bool(rng.integers(2)), int(rng.integers(1 << 30))

    def run():
        numbers, results = np.random.default_rng(seed), []
        for name in _STATELESS:
            layer, features = _stateless(name, numbers, steps, dtype, crowd)
            vectors = name == "Repeat"  # which has no steps to tell of
            model = fastrnn.Sequential(layer, batch_first=batch_first)
            if features is None:
                x = numbers.integers(0, layer._classes, (steps, batch))
            else:
                x = normal(numbers, (batch, features) if vectors else (steps, batch, features), dtype)
            x = x if vectors else _order(x, batch_first)
            more = {} if vectors else {"lengths": lengths, "resets": _order(resets, batch_first)}
            results.append(model.forward(x, **more)[0])
            workspace = model.workspace(steps, batch)
            y, _ = model.forward(x, **more, workspace=workspace)
            results.append(y.copy())
            workspace.penalty_scale = 0.7
            dx, _ = model.backward(normal(numbers, y.shape, dtype), workspace=workspace)
            results += [workspace.penalty(), model.gradients_to_vector(), *([] if dx is None else [dx.copy()])]
        return results

    what = f"layers without state, {dtype}, T={steps}, B={batch}, batch_first={batch_first}, seed={seed}"
    return f"{what}, lengths={told(lengths)}", run
