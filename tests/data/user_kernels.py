"""A user's module: compiled functions that call every public kernel.

Iteration n of each `prange` works on number n of the arrays' first axis. What kernels return is written into arguments.
"""

import numpy as np
from numba import njit, prange

from fastrnn import kernels
from fastrnn.kernels import elementwise, embedding, losses, sequence, update

OPTIONS = {"cache": True, "nogil": True}

tanh_forward, tanh_backward = elementwise.tanh_layer
relu_forward, relu_backward = elementwise.relu_layer
sigmoid_forward, sigmoid_backward = elementwise.sigmoid_layer


@njit
def copy(source, target):
    """Numba takes seconds to compile `target[...] = source`, for the message it would have."""
    flat, out = source.reshape(-1), target.reshape(-1)
    for i in range(flat.size):
        out[i] = flat[i]


@njit(**OPTIONS)
def steps(lstm, gru, rnn, dense, x, h, c, y):
    for n in prange(x.shape[0]):
        kernels.lstm_step(lstm, x[n], h[n, 0], c[n])
        kernels.gru_step(gru, x[n], h[n, 1])
        kernels.rnn_step(rnn, x[n], h[n, 2])
        kernels.dense_step(dense, h[n, 0], y[n])


@njit(**OPTIONS)
def lstm_and_dense(lstm, dense, lstm_workspaces, dense_workspaces, values, gradients, moments, x, targets, h, dh, out):
    """A step of training: values (N,n) are the parameters of the LSTM, then those of the linear layer."""
    for n in prange(x.shape[0]):
        own_lstm, own_dense = kernels.replica(lstm, n), kernels.replica(dense, n)
        lstm_workspace, dense_workspace = kernels.replica(lstm_workspaces, n), kernels.replica(dense_workspaces, n)
        split = values.shape[1] - (own_dense.input.shape[1] + 1) * own_dense.recurrent.shape[1]
        kernels.pack(values[n][:split], own_lstm)
        kernels.pack(values[n][split:], own_dense)
        y = kernels.lstm_forward(own_lstm, x[n], h[n, 0], h[n, 1], lstm_workspace)
        logits = kernels.dense_forward(own_dense, y, dense_workspace)
        kernels.softmax(logits, out[n])
        loss = kernels.softmax_cross_entropy(logits, targets[n], logits)
        dy = kernels.dense_backward(own_dense, values[n][split:], logits, dense_workspace, gradients[n][split:])
        dx = kernels.lstm_backward(
            own_lstm, values[n][:split], dy, dh[n, 0], dh[n, 1], lstm_workspace, gradients[n][:split]
        )
        norm = kernels.clip_norm(gradients[n], 0.1)
        kernels.clip_value(gradients[n], 0.01)
        kernels.adam_update(values[n], gradients[n], moments[n, 0], moments[n, 1], 1, 0.01)
        kernels.sgd_update(values[n], gradients[n], moments[n, 2], 0.01, 0.9)
        copy(dx, x[n])
        out[n, 0, 0, 0], out[n, 0, 0, 1] = loss, norm


@njit(**OPTIONS)
def gru_net(weights, workspaces, values, gradients, x, h, dh):
    for n in prange(x.shape[0]):
        workspace = kernels.replica(workspaces, n)
        dy = kernels.gru_forward(weights, x[n], h[n], workspace).copy()
        copy(kernels.gru_backward(weights, values, dy, dh[n], workspace, gradients[n]), x[n])


@njit(**OPTIONS)
def rnn_net(weights, workspaces, values, gradients, x, h, dh):
    for n in prange(x.shape[0]):
        workspace = kernels.replica(workspaces, n)
        dy = kernels.rnn_forward(weights, x[n], h[n], workspace).copy()
        copy(kernels.rnn_backward(weights, values, dy, dh[n], workspace, gradients[n]), x[n])


@njit(**OPTIONS)
def use_losses(y, targets, classes, mask, quantiles, partial, out, results):
    """y, targets (N,R,C), classes (N,R), mask (N,R) weights; out (N,6,R,C), results (N,10)."""
    for n in prange(y.shape[0]):
        result = results[n]
        result[0] = losses.sum_of_weights(mask[n])
        result[1], result[2] = losses.check_classes(classes[n], mask[n], -100, y.shape[2])
        result[3] = losses.first_outside_unit(targets[n], mask[n])
        result[4] = losses.cross_entropy(y[n], classes[n], mask[n], -100, 0.1, 0.5, out[n, 0], partial[n], 1)
        result[5] = losses.squared_error(y[n], targets[n], mask[n], 1.0, 0.5, out[n, 1], partial[n], 1)
        result[6] = losses.absolute_error(y[n], targets[n], mask[n], 1.0, 0.5, out[n, 2], partial[n], 1)
        result[7] = losses.huber(y[n], targets[n], mask[n], 1.0, 0.5, out[n, 3], partial[n], 1)
        result[9] = losses.pinball(y[n], targets[n], mask[n], quantiles, 0.5, out[n, 5], partial[n], 1)
        result[8] = losses.binary_cross_entropy(y[n], targets[n], mask[n], 1.0, 0.5, out[n, 4], partial[n], 1)


@njit(**OPTIONS)
def use_updates(values, state, results):
    """values (N,2,n), state (N,3,n), results (N,)."""
    for n in prange(values.shape[0]):
        p, g = values[n, 0], values[n, 1]
        a, b, c = state[n, 0], state[n, 1], state[n, 2]
        update.sgd((p, g, a), (0.1, 0.9, 0.9, 1.0, 0.01, 1.0), 1)
        update.rmsprop((p, g, a, b, c), (0.01, 0.9, 0.1, 1e-8, 0.0, 0.5, 1.0), 1)
        update.adagrad((p, g, b), (0.01, 1e-10, 0.01), 1)
        update.adam((p, g, a, b, c), (0.01, 0.1, 0.999, 0.001, 0.03, 1e-8, 0.0, 1.0, 1.0), 1)
        update.clip((g,), (0.5, 0.3), 1)
        results[n] = update.sum_of_squares(g, np.empty(update.SUMS), 1)


@njit(**OPTIONS)
def use_activations(x, dy, y, dx):
    """Flat sequences (N,n); y, dx (N,3,n)."""
    for n in prange(x.shape[0]):
        tanh_forward(x[n], y[n, 0], 1)
        tanh_backward(y[n, 0], dy[n], dx[n, 0], 1)
        relu_forward(x[n], y[n, 1], 1)
        relu_backward(y[n, 1], dy[n], dx[n, 1], 1)
        sigmoid_forward(x[n], y[n, 2], 1)
        sigmoid_backward(y[n, 2], dy[n], dx[n, 2], 1)


@njit(**OPTIONS)
def use_pooling(x, lengths, steps_of_max, pooled, dx, features, penalties):
    """Flat sequences x (N,T·B·F), lengths (B,); pooled (N,4,B·F), dx (N,4,T·B·F), penalties (N,)."""
    batch = lengths.size
    width = batch * features
    steps, resets = x.shape[1] // width, np.zeros(x.shape[1] // features, np.bool_)
    for n in prange(x.shape[0]):
        elementwise.clear_padding(x[n], width, features, features, steps, lengths)
        elementwise.pool_last(x[n], width, features, features, lengths, pooled[n, 0])
        elementwise.pool_mean(x[n], width, features, features, lengths, pooled[n, 1])
        elementwise.pool_max(x[n], width, features, features, lengths, pooled[n, 2], steps_of_max[n])
        elementwise.pool_last_backward(pooled[n, 0], width, features, features, steps, lengths, dx[n, 0])
        elementwise.pool_mean_backward(pooled[n, 1], width, features, features, steps, lengths, dx[n, 1])
        elementwise.pool_max_backward(
            pooled[n, 2], width, features, features, steps, lengths, dx[n, 2], steps_of_max[n]
        )
        sequence.sum_over_steps(x[n], batch, 1, features, steps, pooled[n, 3])
        penalties[n] = sequence.activity_penalty(x[n], batch, 1, features, lengths, resets, 0.1, 0.2, 0.3)
        sequence.activity_gradient(
            x[n], dx[n, 0], batch, 1, features, steps, lengths, resets, 0.1, 0.2, 0.3, dx[n, 3]
        )  # fmt: skip


@njit(**OPTIONS)
def use_tokens(tokens, lengths, table, y, gradient, hot):
    """Flat tokens (N,T·B), lengths (B,), table (V,E); y (N,T·B·E), gradient (N,V,E), hot (N,T·B·V)."""
    batch = lengths.size
    steps = tokens.shape[1] // batch
    for n in prange(tokens.shape[0]):
        embedding.look_up(tokens[n], batch, 1, steps, lengths, table, y[n], 1)
        ends, order = np.empty(table.shape[0], np.int64), np.empty(tokens.shape[1], np.int64)
        embedding.order_tokens(tokens[n], batch, 1, steps, lengths, ends, order, 0, 2 * tokens.shape[1])
        embedding.scatter_add(ends, order, y[n], gradient[n], 0, table.shape[1], 1)
        embedding.one_hot(tokens[n], batch, 1, steps, lengths, table.shape[0], hot[n])
