"""Initial weights of recurrent layers with one layer and direction."""

import numpy as np


def set_forget_bias(lstm, value):
    """Set the bias of an LSTM's forget gate to `value` in all units (Gers et al. 2000; Jozefowicz et al. 2015)."""
    weights, hidden = lstm.state_dict(), lstm.hidden_size
    forget = slice(hidden, 2 * hidden)  # of the gates i, f, g, o
    weights["bias_ih_l0"][forget], weights["bias_hh_l0"][forget] = value, 0
    lstm.load_state_dict(weights)


def set_chrono_bias(gru, longest, rng):
    """Set a GRU's biases to zero, but the update gate's to log u, u from U(1, longest): a unit then forgets within
    about u + 1 steps (Tallec & Ollivier 2018)."""
    weights, hidden = gru.state_dict(), gru.hidden_size
    weights["bias_ih_l0"][:] = weights["bias_hh_l0"][:] = 0
    weights["bias_ih_l0"][hidden : 2 * hidden] = np.log(rng.uniform(1, longest, hidden))  # of the gates r, z, n
    gru.load_state_dict(weights)


def set_orthogonal(layer, rng):
    """Set the recurrent weights of each gate to a random orthogonal matrix (Saxe et al. 2014)."""
    weights, hidden = layer.state_dict(), layer.hidden_size
    for block in weights["weight_hh_l0"].reshape(-1, hidden, hidden):
        q, r = np.linalg.qr(rng.standard_normal((hidden, hidden)))
        block[:] = q * np.sign(np.diag(r))  # makes the distribution uniform (Mezzadri 2007)
    layer.load_state_dict(weights)
