"""The recurrent layers, one for each cell."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .. import checks
from ..init import Spec
from ..kernels.cells import CELLS
from .initial_state import NoisyState
from .recurrent import Recurrent

if TYPE_CHECKING:
    from numpy.typing import DTypeLike

    from ..types import Seed, Shapes


class RNN(Recurrent):
    """The simple recurrent net (Elman 1990), h_t = φ(W_ih x_t + b_ih + W_hh h_{t−1} + b_hh).

    nonlinearity: φ, "tanh", "relu" or "sigmoid". The state is h, (L·D,B,H). Everything else as in PyTorch, and as in
    `LSTM`.
    """

    gates = states = 1

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        *,
        nonlinearity: str = "tanh",
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        variational: bool = False,
        zoneout: float = 0.0,
        initial_state: str | NoisyState = "zeros",
        dilation: int = 1,
        init: Spec = None,
        dtype: DTypeLike = "float32",
        seed: Seed = None,
    ):
        self.nonlinearity = checks.choice("nonlinearity", nonlinearity, ("tanh", "relu", "sigmoid"))
        super().__init__(
            f"rnn_{nonlinearity}", input_size, hidden_size, num_layers, bias=bias, batch_first=batch_first,
            dropout=dropout, bidirectional=bidirectional, variational=variational, zoneout=zoneout,
            initial_state=initial_state, dilation=dilation, init=init, dtype=dtype, seed=seed,
        )  # fmt: skip

    def config(self) -> dict[str, Any]:
        return {**super().config(), "nonlinearity": self.nonlinearity}


class GRU(Recurrent):
    """The gated recurrent unit (Cho et al. 2014) in PyTorch's form: the reset gate acts after the recurrent product.

    r, z = σ(…); n = tanh(W_in x_t + b_in + r (W_hn h_{t−1} + b_hn)); h_t = (1 − z) n + z h_{t−1}. The state is h,
    (L·D,B,H); weights hold the gates r, z, n. Arguments as for `LSTM`, without `forget_bias`, and

    reset_after: False for the form as first published, with the reset gate before the product:
        n = tanh(W_in x_t + b_in + W_hn (r h_{t−1}) + b_hn). In Keras the argument has this name, in ONNX it is
        `linear_before_reset`. Parameters are the same in both forms, but mean different nets.
    """

    gates, states = 3, 1

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        *,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        variational: bool = False,
        recurrent_dropout: float = 0.0,
        zoneout: float = 0.0,
        initial_state: str | NoisyState = "zeros",
        dilation: int = 1,
        init: Spec = None,
        reset_after: bool = True,
        dtype: DTypeLike = "float32",
        seed: Seed = None,
    ):
        self.reset_after = checks.flag("reset_after", reset_after)
        super().__init__(
            "gru" if self.reset_after else "gru_reset_before", input_size, hidden_size, num_layers, bias=bias,
            batch_first=batch_first, dropout=dropout, bidirectional=bidirectional, variational=variational,
            recurrent_dropout=recurrent_dropout, zoneout=zoneout, initial_state=initial_state, dilation=dilation,
            init=init, dtype=dtype, seed=seed,
        )  # fmt: skip

    def config(self) -> dict[str, Any]:
        return super().config() | ({} if self.reset_after else {"reset_after": False})


class LSTM(Recurrent):
    """Long short-term memory (Hochreiter & Schmidhuber 1997; forget gate: Gers et al. 2000).

    i, f, o = σ(…), g = tanh(…); c_t = f c_{t−1} + i g; h_t = o tanh(c_t). The state is the pair (h, c), each (L·D,B,H);
    weights hold the gates i, f, g, o.

    Integers (T,B) below `input_size` as input stand for one-hot vectors, which are never made. Beyond PyTorch's
    arguments, all of them off unless asked for:

    variational: dropout between layers drops the same units at all steps of a sequence (Gal & Ghahramani 2016).
    recurrent_dropout: probability that a unit's candidate g is dropped at a step (Semeniuta et al. 2016).
    zoneout: probability that a unit keeps its state at a step (Krueger et al. 2017), or two of them, for h and for c.
    initial_state: what `state=None` stands for: "zeros", `NoisyState`, or "learned", parameters `initial_h` and
        `initial_c` (L·D,H).
    dilation: how many steps back the state comes from (Chang et al. 2017), in one direction. A state then is
        (L,B,dilation·H), its parts being those for the next steps in turn.
    init: how weights begin, by name, callable or kind ("weight_ih", "weight_hh", "bias"): see `fastrnn.init.fill`.
    forget_bias: what the forget gate's two biases add up to at first.

    Noise and dropout act with a workspace alone, that is in training.
    """

    gates, states = 4, 2

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        *,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        variational: bool = False,
        recurrent_dropout: float = 0.0,
        zoneout: float | tuple[float, float] = 0.0,
        initial_state: str | NoisyState = "zeros",
        dilation: int = 1,
        init: Spec = None,
        forget_bias: float | None = None,
        dtype: DTypeLike = "float32",
        seed: Seed = None,
    ):
        super().__init__(
            "lstm", input_size, hidden_size, num_layers, bias=bias, batch_first=batch_first, dropout=dropout,
            bidirectional=bidirectional, variational=variational, recurrent_dropout=recurrent_dropout, zoneout=zoneout,
            initial_state=initial_state, dilation=dilation, init=init, forget_bias=forget_bias, dtype=dtype,
            seed=seed,
        )  # fmt: skip


class PeepholeLSTM(Recurrent):
    """The LSTM whose gates see its memory (Gers & Schmidhuber 2000): i and f that of the step before, o the new one.

    i, f = σ(… + p_i c_{t−1}), σ(… + p_f c_{t−1}); o = σ(… + p_o c_t). Besides the LSTM's parameters there is
    `peephole_l0` (3·H) with p_i, p_f, p_o. Arguments as for `LSTM`, without zoneout and recurrent dropout.
    """

    gates, states = 4, 2
    vectors = CELLS["peephole_lstm"].vectors

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        *,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        variational: bool = False,
        initial_state: str | NoisyState = "zeros",
        dilation: int = 1,
        init: Spec = None,
        forget_bias: float | None = None,
        dtype: DTypeLike = "float32",
        seed: Seed = None,
    ):
        super().__init__(
            "peephole_lstm", input_size, hidden_size, num_layers, bias=bias, batch_first=batch_first, dropout=dropout,
            bidirectional=bidirectional, variational=variational, initial_state=initial_state, dilation=dilation,
            init=init, forget_bias=forget_bias, dtype=dtype, seed=seed,
        )  # fmt: skip


class LayerNormLSTM(Recurrent):
    """The LSTM with layer normalisation (Ba, Kiros & Hinton 2016) of both products and of the memory.

    z = γ_x N(W_ih x_t) + γ_h N(W_hh h_{t−1}) + β; gates and c_t as in the LSTM; h_t = o tanh(γ_c N(c_t) + β_c). N takes
    mean and variance of a step's 4·H numbers, or H units. Instead of biases there are `gain_ih_l0`, `gain_hh_l0` and
    `shift_l0` (4·H) for γ_x, γ_h and β, and `gain_c_l0`, `shift_c_l0` (H). Gains are 1 at first, shifts 0. Arguments as
    for `LSTM`, without zoneout, recurrent dropout and `forget_bias`: `shift_l0` is the gates' bias.
    """

    gates, states = 4, 2
    vectors = CELLS["layer_norm_lstm"].vectors

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        *,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        variational: bool = False,
        initial_state: str | NoisyState = "zeros",
        dilation: int = 1,
        init: Spec = None,
        dtype: DTypeLike = "float32",
        seed: Seed = None,
    ):
        super().__init__(
            "layer_norm_lstm", input_size, hidden_size, num_layers, bias=False, batch_first=batch_first,
            dropout=dropout, bidirectional=bidirectional, variational=variational, initial_state=initial_state,
            dilation=dilation, init=init, dtype=dtype, seed=seed,
        )  # fmt: skip
        values = self.parameters.state_dict()
        for name, value in values.items():
            if name.startswith(("gain", "shift")):
                value[...] = name.startswith("gain")
        self.parameters.load_state_dict(values)

    @classmethod
    def parameter_shapes(cls, **config: Any) -> Shapes:
        return super().parameter_shapes(**{**config, "bias": False})

    def config(self) -> dict[str, Any]:
        return {name: value for name, value in super().config().items() if name != "bias"}
