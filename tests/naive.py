"""Slow, readable oracles in float64: every cell, backpropagation through time, linear, embedding, pooling.

Plain loops over layers, directions, sequences and steps, straight from the published formulas. Shapes, names and gate
orders are PyTorch's: x (T,B,I), states (L·D,B,H), weights by name. `kind` is "rnn_tanh", "rnn_relu", "rnn_sigmoid",
"gru", "gru_reset_before" or "lstm"; the state is h, or the pair (h, c) of an LSTM.
"""

import numpy as np

GATES = {"rnn_tanh": 1, "rnn_relu": 1, "rnn_sigmoid": 1, "gru": 3, "gru_reset_before": 3, "lstm": 4}


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


# ---- one step of one sequence: x (I,), h and c (H,) -> new state, and what the way back needs ----


def rnn_step(kind, w, x, h):
    """Elman 1990: h' = φ(W_ih x + b_ih + W_hh h + b_hh)."""
    z = w["weight_ih"] @ x + w["bias_ih"] + w["weight_hh"] @ h + w["bias_hh"]
    if kind == "rnn_tanh":
        new = np.tanh(z)
    elif kind == "rnn_sigmoid":
        new = sigmoid(z)
    else:
        new = np.where(z > 0, z, 0.0)
    return new, (x, h, z, new)


def rnn_step_back(kind, w, kept, dnew):
    x, h, z, new = kept
    if kind == "rnn_tanh":
        dz = dnew * (1 - new**2)
    elif kind == "rnn_sigmoid":
        dz = dnew * new * (1 - new)
    else:
        dz = np.where(z > 0, dnew, 0.0)
    gradients = {
        "weight_ih": np.outer(dz, x), "weight_hh": np.outer(dz, h), "bias_ih": dz, "bias_hh": dz,
    }  # fmt: skip
    return w["weight_ih"].T @ dz, w["weight_hh"].T @ dz, gradients


def gru_step(w, x, h):
    """Cho et al. 2014 in PyTorch's form, reset after the product: n = tanh(a_n + r (W_hn h + b_hn))."""
    a_r, a_z, a_n = np.split(w["weight_ih"] @ x + w["bias_ih"], 3)
    u_r, u_z, u_n = np.split(w["weight_hh"] @ h + w["bias_hh"], 3)
    r, z = sigmoid(a_r + u_r), sigmoid(a_z + u_z)
    n = np.tanh(a_n + r * u_n)
    return (1 - z) * n + z * h, (x, h, r, z, n, u_n)


def gru_step_back(w, kept, dnew):
    x, h, r, z, n, u_n = kept
    dn, dz = dnew * (1 - z), dnew * (h - n)
    da_n = dn * (1 - n**2)
    dr, du_n = da_n * u_n, da_n * r
    da_r, da_z = dr * r * (1 - r), dz * z * (1 - z)
    da, du = np.concatenate([da_r, da_z, da_n]), np.concatenate([da_r, da_z, du_n])
    gradients = {
        "weight_ih": np.outer(da, x), "weight_hh": np.outer(du, h), "bias_ih": da, "bias_hh": du,
    }  # fmt: skip
    return w["weight_ih"].T @ da, w["weight_hh"].T @ du + dnew * z, gradients


def gru_reset_before_step(w, x, h):
    """Cho et al. 2014 as published, reset before the product: n = tanh(a_n + W_hn (r h) + b_hn)."""
    a_r, a_z, a_n = np.split(w["weight_ih"] @ x + w["bias_ih"], 3)
    w_r, w_z, w_n = np.split(w["weight_hh"], 3)
    b_r, b_z, b_n = np.split(w["bias_hh"], 3)
    r, z = sigmoid(a_r + w_r @ h + b_r), sigmoid(a_z + w_z @ h + b_z)
    n = np.tanh(a_n + w_n @ (r * h) + b_n)
    return (1 - z) * n + z * h, (x, h, r, z, n)


def gru_reset_before_step_back(w, kept, dnew):
    x, h, r, z, n = kept
    w_r, w_z, w_n = np.split(w["weight_hh"], 3)
    dz, dn = dnew * (h - n), dnew * (1 - z)
    da_n = dn * (1 - n**2)
    d_reset = w_n.T @ da_n  # of r h
    dr = d_reset * h
    da_r, da_z = dr * r * (1 - r), dz * z * (1 - z)
    da = np.concatenate([da_r, da_z, da_n])
    dw_hh = np.concatenate([np.outer(da_r, h), np.outer(da_z, h), np.outer(da_n, r * h)])
    gradients = {"weight_ih": np.outer(da, x), "weight_hh": dw_hh, "bias_ih": da, "bias_hh": da}
    return w["weight_ih"].T @ da, w_r.T @ da_r + w_z.T @ da_z + d_reset * r + dnew * z, gradients


def lstm_step(w, x, h, c):
    """Hochreiter & Schmidhuber 1997 with forget gate (Gers et al. 2000): c' = f c + i g, h' = o tanh(c')."""
    z_i, z_f, z_g, z_o = np.split(w["weight_ih"] @ x + w["bias_ih"] + w["weight_hh"] @ h + w["bias_hh"], 4)
    i, f, g, o = sigmoid(z_i), sigmoid(z_f), np.tanh(z_g), sigmoid(z_o)
    new_c = f * c + i * g
    return o * np.tanh(new_c), new_c, (x, h, c, i, f, g, o, new_c)


def lstm_step_back(w, kept, dh, dc):
    x, h, c, i, f, g, o, new_c = kept
    tanh_c = np.tanh(new_c)
    dc = dc + dh * o * (1 - tanh_c**2)
    dz = np.concatenate([
        dc * g * i * (1 - i), dc * c * f * (1 - f), dc * i * (1 - g**2), dh * tanh_c * o * (1 - o),
    ])  # fmt: skip
    gradients = {
        "weight_ih": np.outer(dz, x), "weight_hh": np.outer(dz, h), "bias_ih": dz, "bias_hh": dz,
    }  # fmt: skip
    return w["weight_ih"].T @ dz, w["weight_hh"].T @ dz, dc * f, gradients


# ---- one sequence in one direction, from its own first to its own last step ----


def sequence_forward(kind, w, x, h, c):
    """x (n,I) -> outputs (n,H), final h and c, and the steps' kept values."""
    outputs, kept = [], []
    for x_t in x:
        if kind == "lstm":
            h, c, k = lstm_step(w, x_t, h, c)
        elif kind == "gru":
            h, k = gru_step(w, x_t, h)
        elif kind == "gru_reset_before":
            h, k = gru_reset_before_step(w, x_t, h)
        else:
            h, k = rnn_step(kind, w, x_t, h)
        outputs.append(h)
        kept.append(k)
    return np.array(outputs), h, c, kept


def sequence_backward(kind, w, kept, dy, dh, dc):
    """dy (n,H) and the final state's gradients -> dx (n,I), the initial state's, and those of the weights."""
    dx = [None] * len(kept)
    total = {name: np.zeros_like(value) for name, value in w.items()}
    for t in reversed(range(len(kept))):
        dh = dh + dy[t]
        if kind == "lstm":
            dx[t], dh, dc, gradients = lstm_step_back(w, kept[t], dh, dc)
        elif kind == "gru":
            dx[t], dh, gradients = gru_step_back(w, kept[t], dh)
        elif kind == "gru_reset_before":
            dx[t], dh, gradients = gru_reset_before_step_back(w, kept[t], dh)
        else:
            dx[t], dh, gradients = rnn_step_back(kind, w, kept[t], dh)
        for name, gradient in gradients.items():
            total[name] += gradient
    return np.array(dx), dh, dc, total


# ---- whole nets ----


def _suffix(layer, direction):
    return f"_l{layer}" + ("_reverse" if direction else "")


def _weights_of(parameters, layer, direction):
    """The four tensors of one layer and direction; biases that a net lacks are zeros."""
    suffix = _suffix(layer, direction)
    w = {k: np.asarray(parameters[k + suffix], np.float64) for k in ("weight_ih", "weight_hh")}
    for name in ("bias_ih", "bias_hh"):
        bias = parameters.get(name + suffix)
        w[name] = np.zeros(len(w["weight_ih"])) if bias is None else np.asarray(bias, np.float64)
    return w


def _pair(state, shape):
    """h and c; c stays zeros where a cell has none."""
    if state is None:
        return np.zeros(shape), np.zeros(shape)
    if isinstance(state, tuple):
        return tuple(np.asarray(s, np.float64) for s in state)
    return np.asarray(state, np.float64), np.zeros(shape)


def recurrent_forward(kind, parameters, x, state=None, lengths=None, *, num_layers=1, bidirectional=False):
    """y (T,B,D·H), final state and a tape for `recurrent_backward`."""
    steps, batch, _ = x.shape
    directions = 2 if bidirectional else 1
    hidden = parameters["weight_hh_l0"].shape[1]
    lengths = [steps] * batch if lengths is None else lengths
    h0, c0 = _pair(state, (num_layers * directions, batch, hidden))
    h_final, c_final = np.zeros_like(h0), np.zeros_like(c0)
    tape = {}
    source = np.asarray(x, np.float64)
    for layer in range(num_layers):
        y = np.zeros((steps, batch, directions * hidden))
        for direction in range(directions):
            w = _weights_of(parameters, layer, direction)
            index = layer * directions + direction
            columns = slice(direction * hidden, (direction + 1) * hidden)
            for b, n in enumerate(lengths):
                order = slice(None, None, -1) if direction else slice(None)
                out, h, c, kept = sequence_forward(kind, w, source[:n, b][order], h0[index, b], c0[index, b])
                y[:n, b, columns] = out[order]
                h_final[index, b], c_final[index, b] = h, c
                tape[index, b] = kept
        source = y
    setup = kind, parameters, x.shape, lengths, num_layers, directions, hidden
    return source, (h_final, c_final) if kind == "lstm" else h_final, (setup, tape)


def recurrent_backward(tape, dy, dstate=None):
    """dx, gradient of the initial state, and a dict of the parameters' gradients."""
    (kind, parameters, x_shape, lengths, num_layers, directions, hidden), kept = tape
    steps, batch, features = x_shape
    dh, dc = _pair(dstate, (num_layers * directions, batch, hidden))
    dh0, dc0 = np.zeros_like(dh), np.zeros_like(dc)
    gradients = {name: np.zeros(value.shape) for name, value in parameters.items()}
    for layer in reversed(range(num_layers)):
        dx = np.zeros((steps, batch, features if layer == 0 else directions * hidden))
        for direction in range(directions):
            w = _weights_of(parameters, layer, direction)
            index = layer * directions + direction
            columns = slice(direction * hidden, (direction + 1) * hidden)
            order = slice(None, None, -1) if direction else slice(None)
            for b, n in enumerate(lengths):
                part, dh0[index, b], dc0[index, b], total = sequence_backward(
                    kind, w, kept[index, b], dy[:n, b, columns][order], dh[index, b], dc[index, b]
                )
                dx[:n, b] += part[order]
                for name, gradient in total.items():
                    if name + _suffix(layer, direction) in gradients:
                        gradients[name + _suffix(layer, direction)] += gradient
        dy = dx
    return dx, (dh0, dc0) if kind == "lstm" else dh0, gradients


def pre_activations(tape):
    """All z of a simple RNN's tape in one flat array, to keep away from the kink of the ReLU."""
    return np.concatenate([z for kept in tape[1].values() for _, _, z, _ in kept])


# ---- layers without recurrence; sequences are time first ----


def _valid(lengths, steps, batch):
    """Steps of all sequences, in the order in which embedding gradients are summed."""
    for t in range(steps):
        for b in range(batch):
            if lengths is None or t < lengths[b]:
                yield t, b


def linear_forward(weight, bias, x, lengths=None):
    y = np.zeros((*x.shape[:2], len(weight)))
    for t, b in _valid(lengths, *x.shape[:2]):
        y[t, b] = weight @ x[t, b] + (0 if bias is None else bias)
    return y


def linear_backward(weight, x, dy, lengths=None):
    """dx, dweight, dbias."""
    dx, dweight, dbias = np.zeros(x.shape), np.zeros(weight.shape), np.zeros(len(weight))
    for t, b in _valid(lengths, *x.shape[:2]):
        dx[t, b] = weight.T @ dy[t, b]
        dweight += np.outer(dy[t, b], x[t, b])
        dbias += dy[t, b]
    return dx, dweight, dbias


def embedding_forward(weight, tokens, lengths=None):
    y = np.zeros((*tokens.shape, weight.shape[1]))
    for t, b in _valid(lengths, *tokens.shape):
        y[t, b] = weight[tokens[t, b]]
    return y


def embedding_backward(weight, tokens, dy, lengths=None):
    dweight = np.zeros(weight.shape)
    for t, b in _valid(lengths, *tokens.shape):
        dweight[tokens[t, b]] += dy[t, b]
    return dweight


def pool_last_forward(x, lengths):
    return np.array([x[n - 1, b] for b, n in enumerate(lengths)])


def pool_last_backward(x_shape, dy, lengths):
    dx = np.zeros(x_shape)
    for b, n in enumerate(lengths):
        dx[n - 1, b] = dy[b]
    return dx


def pool_mean_forward(x, lengths):
    return np.array([x[:n, b].mean(0) for b, n in enumerate(lengths)])


def pool_mean_backward(x_shape, dy, lengths):
    dx = np.zeros(x_shape)
    for b, n in enumerate(lengths):
        dx[:n, b] = dy[b] / n
    return dx
