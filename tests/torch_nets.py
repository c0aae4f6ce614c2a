"""Recurrent layers with all their options in PyTorch, one step of one sequence at a time: gradients by autograd.

`run` takes a layer of fastrnn for its architecture; `parameters` are tensors under the names of its state dict.
"""

import numpy as np
import torch


def tensors(state_dict):
    """A state dict as tensors that gather gradients."""
    return {name: torch.tensor(np.asarray(a, np.float64), requires_grad=True) for name, a in state_dict.items()}


def _kind(layer):
    name = type(layer).__name__
    if name == "GRU" and not layer.reset_after:
        return "GRU reset before"
    return layer.nonlinearity if name == "RNN" else name


class _ScaleGradient(torch.autograd.Function):
    """The identity, whose gradient is multiplied by a factor."""

    @staticmethod
    def forward(ctx, x, factor):
        ctx.factor = factor
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        return grad * ctx.factor, None


def _step(kind, p, x, state, keep):
    """One step of one sequence: x (I,), state tuple of (H,); `keep` multiplies the candidate."""
    h = state[0]
    if kind == "LayerNormLSTM":
        return _layer_norm_step(p, x, *state)
    z_x = p["weight_ih"] @ x + p["bias_ih"]
    z_h = p["weight_hh"] @ h + p["bias_hh"]
    if kind in ("tanh", "relu", "sigmoid"):
        return (getattr(torch, kind)(z_x + z_h),)
    if kind == "GRU":
        x_r, x_z, x_n = z_x.chunk(3)
        h_r, h_z, h_n = z_h.chunk(3)
        r, z = torch.sigmoid(x_r + h_r), torch.sigmoid(x_z + h_z)
        return ((1 - z) * torch.tanh(x_n + r * h_n) * keep + z * h,)
    if kind == "GRU reset before":
        x_r, x_z, x_n = z_x.chunk(3)
        h_r, h_z, _ = z_h.chunk(3)
        r, z = torch.sigmoid(x_r + h_r), torch.sigmoid(x_z + h_z)
        w_n, b_n = p["weight_hh"].chunk(3)[2], p["bias_hh"].chunk(3)[2]
        return ((1 - z) * torch.tanh(x_n + w_n @ (r * h) + b_n) * keep + z * h,)
    c = state[1]
    i, f, g, o = (z_x + z_h).chunk(4)
    p_i, p_f, p_o = p["peephole"].chunk(3) if kind == "PeepholeLSTM" else (0.0, 0.0, 0.0)
    i, f = torch.sigmoid(i + p_i * c), torch.sigmoid(f + p_f * c)
    c = f * c + i * torch.tanh(g) * keep
    o = torch.sigmoid(o + p_o * c)
    return o * torch.tanh(c), c


def _layer_norm_step(p, x, h, c):
    """Ba, Kiros & Hinton 2016."""
    norm = torch.nn.functional.layer_norm
    from_input = norm(p["weight_ih"] @ x, p["gain_ih"].shape) * p["gain_ih"]
    from_state = norm(p["weight_hh"] @ h, p["gain_hh"].shape) * p["gain_hh"]
    i, f, g, o = (from_input + from_state + p["shift"]).chunk(4)
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(norm(c, c.shape, p["gain_c"], p["shift_c"])), c


def run(layer, parameters, x, state=None, lengths=None, resets=None, *, noise=None, carry_factor=1.0):
    """y (T,B,D·H) and the final state, as `layer.forward` has them; time comes first.

    state: tuple of (L·D,B,d·H) tensors, or None. noise: for each pass what a workspace drew, (T,B,H) arrays.
    """
    steps, batch = x.shape[:2]
    lengths = [steps] * batch if lengths is None else lengths
    kind, hidden, directions, d = _kind(layer), layer.hidden_size, layer.directions, layer.dilation
    tokens = not x.is_floating_point()
    finals = [[None] * batch for _ in range(layer.num_layers * directions)]
    for n in range(layer.num_layers):
        rows = [[[] for _ in range(steps)] for _ in range(batch)]
        for direction in range(directions):
            index = n * directions + direction
            suffix = f"_l{n}" + ("_reverse" if direction else "")
            p = {name[: -len(suffix)]: tensor for name, tensor in parameters.items() if name.endswith(suffix)}
            p = {name: tensor for name, tensor in p.items() if "_l" not in name}
            zeros = torch.zeros(p["weight_hh"].shape[0], dtype=x.dtype if not tokens else torch.float64)
            p.setdefault("bias_ih", zeros)
            p.setdefault("bias_hh", zeros)
            names = ("initial_h", "initial_c")[: layer.states]
            fresh = tuple(parameters[name][index] if name in parameters else zeros[:hidden] for name in names)
            for b in range(batch):
                if state is None:
                    memory = [fresh] * d
                else:
                    parts = [s[index, b].reshape(d, hidden) for s in state]
                    memory = [tuple(part[k] for part in parts) for k in range(d)]
                order = range(lengths[b])
                for t in reversed(order) if direction else order:
                    begins = t + direction  # in reverse a sequence's last step comes first
                    reset = resets is not None and begins < lengths[b] and resets[begins, b]
                    if reset:
                        memory = [fresh] * d
                    before = memory[0]
                    if carry_factor != 1.0 and t != (lengths[b] - 1 if direction else 0) and not reset:
                        before = tuple(_ScaleGradient.apply(s, carry_factor) for s in before)
                    drawn = [torch.tensor(a[t, b]) for a in noise[index]] if noise else []
                    keep = drawn.pop(0) if layer.recurrent_dropout and noise else 1.0
                    x_t = torch.eye(layer.input_size, dtype=torch.float64)[x[t, b]] if tokens and n == 0 else x[t, b]
                    after = _step(kind, p, x_t, before, keep)
                    if any(layer.zoneout):
                        stay = drawn or list(layer.zoneout)
                        after = tuple(m * old + (1 - m) * new for m, old, new in zip(stay, before, after, strict=True))
                    memory = memory[1:] + [after]
                    rows[b][t].append(after[0])
                finals[index][b] = [torch.cat([step[part] for step in memory]) for part in range(layer.states)]
        zero = torch.zeros(directions * hidden, dtype=torch.float64)
        x = torch.stack([
            torch.stack([torch.cat(rows[b][t]) if rows[b][t] else zero for b in range(batch)]) for t in range(steps)
        ])  # fmt: skip
        tokens = False
    final = tuple(
        torch.stack([torch.stack([finals[i][b][part] for b in range(batch)]) for i in range(len(finals))])
        for part in range(layer.states)
    )
    return x, final
