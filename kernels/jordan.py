"""The output-recurrent net (Jordan 1986): its time loops forward and backward, and the gradients of its weights.

Row by row of a batch, so that no sequence's numbers depend on the others. Arrays are C-contiguous and time comes first:
x (T,B,I), y (T,B,O), lengths (B,) int64, resets (T,B) booleans or of size 0 for none. Nothing is checked.
"""

import math

from .jit import formula, kernel

IDENTITY, TANH, RELU, SIGMOID = range(4)  # nonlinearities


@formula
def _add_product(x, at, depth, weights, y, to, columns):
    """y[to:] += x[at:] W for a row x (depth,) and W (depth, columns): four rows of W share a pass over y."""
    target = y[to : to + columns]  # indices from 0 on are what makes the loops vector code
    whole = depth // 4 * 4
    for k in range(0, whole, 4):
        a, b, c, d = x[at + k], x[at + k + 1], x[at + k + 2], x[at + k + 3]
        p, q, r, s = weights[k], weights[k + 1], weights[k + 2], weights[k + 3]
        for j in range(columns):
            target[j] += a * p[j] + b * q[j] + c * r[j] + d * s[j]
    for k in range(whole, depth):
        a, p = x[at + k], weights[k]
        for j in range(columns):
            target[j] += a * p[j]


@formula
def _activate(kind, y, at, size):
    """y = φ(y), in place."""
    if kind == TANH:
        for j in range(at, at + size):
            y[j] = math.tanh(y[j])
    elif kind == RELU:
        for j in range(at, at + size):
            if y[j] < 0:
                y[j] = 0
    elif kind == SIGMOID:
        for j in range(at, at + size):
            y[j] = 0.5 + 0.5 * math.tanh(0.5 * y[j])


@formula
def _differentiate(kind, y, at, dy, to, size):
    """dy = φ′ dy, in place, by way of y = φ(·)."""
    for j in range(size):
        value = y[at + j]
        if kind == TANH:
            dy[to + j] *= 1 - value * value
        elif kind == RELU:
            if value <= 0:  # NaN is none of them
                dy[to + j] = 0
        elif kind == SIGMOID:
            dy[to + j] *= value * (1 - value)


@formula
def _fill(array, at, size, value):
    for j in range(at, at + size):
        array[j] = value


@formula
def _copy(source, at, target, to, size):
    for j in range(size):
        target[to + j] = source[at + j]


@kernel
def jordan_forward(x, state, lengths, resets, weights, biases, kinds, before, h, y, final):
    """From x and the output before it, `state` (B,O), to y and the final output (B,O); past a sequence's end y is 0.

    weights: W_ih, W_hh and W_ho, transposed; biases: (H,) and (O,); kinds: of both nonlinearities.
    before (S,B,O), h (S,B,H): get the fed-back outputs and the hidden units, of each step for S = T, else of the last.
    """
    steps, batch, inputs = x.shape
    hidden, outputs = h.shape[2], y.shape[2]
    flat_x, flat_before, flat_h, flat_y = x.reshape(-1), before.reshape(-1), h.reshape(-1), y.reshape(-1)
    flat_state, flat_final = state.reshape(-1), final.reshape(-1)
    for t in range(steps):
        for b in range(batch):
            row, kept = t * batch + b, t % h.shape[0] * batch + b
            if t >= lengths[b]:
                _fill(flat_before, kept * outputs, outputs, 0)
                _fill(flat_h, kept * hidden, hidden, 0)
                _fill(flat_y, row * outputs, outputs, 0)
                continue
            if resets.size > 0 and resets[t, b]:
                _fill(flat_before, kept * outputs, outputs, 0)
            elif t == 0:
                _copy(flat_state, b * outputs, flat_before, kept * outputs, outputs)
            else:
                _copy(flat_y, (row - batch) * outputs, flat_before, kept * outputs, outputs)
            _copy(biases[0], 0, flat_h, kept * hidden, hidden)
            _add_product(flat_x, row * inputs, inputs, weights[0], flat_h, kept * hidden, hidden)
            _add_product(flat_before, kept * outputs, outputs, weights[1], flat_h, kept * hidden, hidden)
            _activate(kinds[0], flat_h, kept * hidden, hidden)
            _copy(biases[1], 0, flat_y, row * outputs, outputs)
            _add_product(flat_h, kept * hidden, hidden, weights[2], flat_y, row * outputs, outputs)
            _activate(kinds[1], flat_y, row * outputs, outputs)
            if t == lengths[b] - 1:
                _copy(flat_y, row * outputs, flat_final, b * outputs, outputs)


@kernel
def jordan_backward(dy, lengths, resets, weights, kinds, carry_factor, h, y, dx, dz, dz_out, carry):
    """Back through `jordan_forward`, which kept every step in h and gave y.

    carry: (B,O), the gradient of the final output; becomes that of the initial one. From each step to the one before
        it is multiplied by `carry_factor`. weights: W_ih, W_hh and W_ho.
    dz (T,B,H), dz_out (T,B,O): get the gradients of what goes into the nonlinearities.
    """
    steps, batch, inputs = dx.shape
    hidden, outputs = h.shape[2], y.shape[2]
    flat_dx, flat_dz, flat_out = dx.reshape(-1), dz.reshape(-1), dz_out.reshape(-1)
    flat_h, flat_y, flat_dy, flat_carry = h.reshape(-1), y.reshape(-1), dy.reshape(-1), carry.reshape(-1)
    for t in range(steps - 1, -1, -1):
        for b in range(batch):
            row, own = t * batch + b, b * outputs
            _fill(flat_dx, row * inputs, inputs, 0)
            _fill(flat_dz, row * hidden, hidden, 0)
            _fill(flat_out, row * outputs, outputs, 0)
            if t >= lengths[b]:
                continue
            for j in range(outputs):
                flat_out[row * outputs + j] = flat_dy[row * outputs + j] + flat_carry[own + j]
            _differentiate(kinds[1], flat_y, row * outputs, flat_out, row * outputs, outputs)
            _add_product(flat_out, row * outputs, outputs, weights[2], flat_dz, row * hidden, hidden)
            _differentiate(kinds[0], flat_h, row * hidden, flat_dz, row * hidden, hidden)
            _add_product(flat_dz, row * hidden, hidden, weights[0], flat_dx, row * inputs, inputs)
            _fill(flat_carry, own, outputs, 0)
            if resets.size > 0 and resets[t, b]:
                continue
            _add_product(flat_dz, row * hidden, hidden, weights[1], flat_carry, own, outputs)
            if t > 0:
                for j in range(outputs):
                    flat_carry[own + j] *= carry_factor


@kernel
def add_outer_products(dz, a, gradient):
    """gradient (J,K) += dzᵀ a for dz (N,J) and a (N,K), four rows at a time."""
    rows, width = dz.shape
    columns = a.shape[1]
    for r in range(0, rows - 3, 4):
        first, second, third, fourth = a[r], a[r + 1], a[r + 2], a[r + 3]
        for j in range(width):
            p, q, s, u = dz[r, j], dz[r + 1, j], dz[r + 2, j], dz[r + 3, j]
            row = gradient[j]
            for k in range(columns):
                row[k] += p * first[k] + q * second[k] + s * third[k] + u * fourth[k]
    for r in range(rows // 4 * 4, rows):
        for j in range(width):
            for k in range(columns):
                gradient[j, k] += dz[r, j] * a[r, k]


@kernel
def add_rows(dz, gradient):
    """gradient (J,) += the sum of the rows of dz (N,J)."""
    for r in range(dz.shape[0]):
        for j in range(dz.shape[1]):
            gradient[j] += dz[r, j]
