"""Initial weights of recurrent layers with one layer and direction."""


def set_forget_bias(lstm, value):
    """Set the bias of an LSTM's forget gate to `value` in all units (Gers et al. 2000; Jozefowicz et al. 2015)."""
    weights, hidden = lstm.state_dict(), lstm.hidden_size
    forget = slice(hidden, 2 * hidden)  # of the gates i, f, g, o
    weights["bias_ih_l0"][forget], weights["bias_hh_l0"][forget] = value, 0
    lstm.load_state_dict(weights)
