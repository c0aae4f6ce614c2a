"""Write the golden files beside this one: what PyTorch says, for machines where it is not installed.

    python tests/data/make_golden.py

Everything is float64 and drawn from `RandomState`, whose stream NumPy has frozen, so the files can be made again.
recurrent.npz: inputs, weights, outputs and gradients of a few nets, under "case/quantity" names.
language_model.npz: losses of 300 Adam updates of a small language model; the model is in test_language_model_parity.
"""

import pathlib
import sys

import numpy as np

HERE = pathlib.Path(__file__).parent
T, B, I, H = 5, 3, 3, 4  # noqa: E741 (the field's name for the number of inputs)

# options of nn.RNN, nn.GRU, nn.LSTM, and lengths
VARIANTS = {
    "plain": ({}, None),
    "stacked_ragged": ({"num_layers": 2, "bidirectional": True}, [4, 5, 1]),
    "no_bias_batch_first": ({"bias": False, "batch_first": True}, [2, 4, 5]),
}
KINDS = ("rnn_tanh", "rnn_relu", "gru", "lstm")


def torch_layer(kind, input_size, hidden_size, **options):
    """The `torch.nn` layer of a kind, in float64."""
    from torch import float64, nn

    if kind.startswith("rnn"):
        return nn.RNN(input_size, hidden_size, nonlinearity=kind[4:], dtype=float64, **options)
    return (nn.GRU if kind == "gru" else nn.LSTM)(input_size, hidden_size, dtype=float64, **options)


def run_torch(layer, x, state, lengths, dy, dstate):
    """y, final state, dx, dstate and parameter gradients of a torch layer, as NumPy arrays.

    x, dy: arrays in the layer's order; state, dstate: tuples of arrays, (h,) or (h, c), or None.
    """
    import torch
    from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

    layer.zero_grad()
    first = layer.batch_first
    x = torch.tensor(x, requires_grad=True)
    given = None if state is None else tuple(torch.tensor(s, requires_grad=True) for s in state)
    hx = given if given is None or isinstance(layer, torch.nn.LSTM) else given[0]
    if lengths is None:
        y, final = layer(x, hx)
    else:
        packed = pack_padded_sequence(x, torch.tensor(lengths), batch_first=first, enforce_sorted=False)
        packed, final = layer(packed, hx)
        y, _ = pad_packed_sequence(packed, batch_first=first, total_length=x.shape[1 if first else 0])
    final = final if isinstance(final, tuple) else (final,)
    torch.autograd.backward([y, *final], [torch.tensor(g) for g in (dy, *dstate)])
    results = {"y": y, "dx": x.grad}
    for i, name in enumerate(("h", "c")[: len(final)]):
        results[name] = final[i]
        if given is not None:
            results[f"d{name}0"] = given[i].grad
    results |= {f"d{name}": p.grad for name, p in layer.named_parameters()}
    return {name: value.detach().numpy() for name, value in results.items()}


def recurrent_cases():
    """name -> arrays of every case."""
    import torch

    random = np.random.RandomState(7)
    arrays = {}
    for kind in KINDS:
        for variant, (options, lengths) in VARIANTS.items():
            layer = torch_layer(kind, I, H, **options)
            with torch.no_grad():
                for parameter in layer.parameters():
                    parameter.copy_(torch.tensor(random.uniform(-0.8, 0.8, parameter.shape)))
            directions = 2 if layer.bidirectional else 1
            lead = (B, T) if layer.batch_first else (T, B)
            shape = (layer.num_layers * directions, B, H)
            count = 2 if kind == "lstm" else 1
            case = {"x": random.standard_normal((*lead, I)), "dy": random.standard_normal((*lead, directions * H))}
            state, dstate = ([random.standard_normal(shape) for _ in range(count)] for _ in range(2))
            case |= {f"{n}0": s for n, s in zip("hc", state, strict=False)}
            case |= {f"d{n}": s for n, s in zip("hc", dstate, strict=False)}
            case |= {name: p.detach().numpy() for name, p in layer.named_parameters()}
            results = run_torch(layer, case["x"], state, lengths, case["dy"], dstate)
            case |= {f"result_{name}": value for name, value in results.items()}
            arrays |= {f"{kind}/{variant}/{name}": value for name, value in case.items()}
    return arrays


def main():
    sys.path.insert(0, str(HERE.parent))
    from test_language_model_parity import torch_losses

    np.savez_compressed(HERE / "recurrent.npz", **recurrent_cases())
    np.savez_compressed(HERE / "language_model.npz", float64=torch_losses("float64"))


if __name__ == "__main__":
    main()
