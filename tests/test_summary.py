"""Layers and models in words."""

import html.parser
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fastrnn
from fastrnn import (
    GRU,
    LSTM,
    RNN,
    ActivityRegularization,
    Concatenated,
    Dropout,
    Embedding,
    Jordan,
    Last,
    LayerNormLSTM,
    Linear,
    NoisyState,
    OneHot,
    Repeat,
    Residual,
    Sequential,
    Tanh,
)


@pytest.mark.parametrize(
    "text",
    [
        "LSTM(3, 8)",
        "LSTM(3, 8, num_layers=2, bidirectional=True)",
        "LSTM(3, 8, zoneout=[0.1, 0.2])",
        "GRU(3, 8, dtype='float64')",
        "RNN(3, 8, batch_first=True, nonlinearity='relu')",
        "LayerNormLSTM(3, 8, dropout=0.5)",
        "Jordan(2, 3, 4)",
        "Linear(2, 3, bias=False)",
        "Embedding(10, 4)",
        "OneHot(5)",
        "Dropout()",
        "Dropout(p=0.1, variational=True)",
        "ActivityRegularization(l2=0.1)",
        "Last()",
        "Repeat(4)",
    ],
)
def test_repr_of_a_layer_is_the_call_that_makes_it(text):
    kinds = (LSTM, GRU, RNN, LayerNormLSTM, Jordan, Linear, Embedding, OneHot, Dropout, ActivityRegularization)
    names = {kind.__name__: kind for kind in (*kinds, Last, Repeat)}
    assert repr(eval(text, names)) == text


def test_repr_of_noise_can_be_read_back():
    text = repr(LSTM(3, 8, initial_state=NoisyState(0.1)))
    assert text == "LSTM(3, 8, initial_state={'std': 0.1})" and repr(eval(text, {"LSTM": LSTM})) == text


def test_repr_of_a_layer_of_the_users_own():
    class Twice(Tanh):
        def __init__(self, times, **options):
            self.times = times
            super().__init__(**options)

        def config(self):
            return {**super().config(), "times": self.times, "note": "x"}

    assert repr(Twice(2)) == "Twice(2, dtype='float32', note='x')"


def test_repr_of_a_model_is_a_table():
    model = Sequential(Embedding(256, 64), LSTM(64, 256, num_layers=2), Dropout(0.1), Linear(256, 256))
    assert repr(model).splitlines() == [
        "Sequential()                      output       parameters",
        "  0  Embedding(256, 64)           (T, B, 64)       16,384",
        "  1  LSTM(64, 256, num_layers=2)  (T, B, 256)     856,064",
        "  2  Dropout(p=0.1)               (T, B, 256)           0",
        "  3  Linear(256, 256)             (T, B, 256)      65,792",
        "938,240 parameters in float32, 3.75 MB",
    ]


def test_repr_of_nested_containers():
    model = Sequential(
        Residual(Sequential(Dropout(), GRU(4, 4, dtype="float64"))),
        Concatenated(RNN(4, 8, dtype="float64"), Tanh(), include_input=True),
        Last(),
        Repeat(7),
        batch_first=True,
    )
    assert repr(model).splitlines() == [
        "Sequential(batch_first=True)           output      parameters",
        "  0  Residual()                        (B, T, 4)          120",
        "     0  Sequential()                   (B, T, 4)          120",
        "        0  Dropout()                   (B, T, 4)            0",
        "        1  GRU(4, 4)                   (B, T, 4)          120",
        "  1  Concatenated(include_input=True)  (B, T, 20)         112",
        "     0  RNN(4, 8)                      (B, T, 8)          112",
        "     1  Tanh()                         (B, T, 8)            0",
        "  2  Last()                            (B, 20)              0",
        "  3  Repeat(7)                         (B, 7, 20)           0",
        "232 parameters in float64, 1.86 kB",
    ]


def test_repr_of_widths_that_are_not_known():
    assert "(T, B, …)" in repr(Sequential(Dropout(), Tanh()))
    assert repr(Sequential(Tanh())).endswith("0 parameters in float32, 0 bytes")


def test_repr_of_a_model_of_vectors():
    assert "(B, 5)" in repr(Sequential(Repeat(3), GRU(2, 5), Last()))


@settings(max_examples=20)
@given(data=st.data())
def test_repr_shapes_are_those_of_the_output(data):
    widths = data.draw(st.lists(st.integers(1, 9), min_size=2, max_size=4))
    layers = [Linear(a, b, seed=0) for a, b in zip(widths, widths[1:], strict=False)]
    if data.draw(st.booleans()):
        layers = [Concatenated(*layers)]
    if data.draw(st.booleans()):
        layers.append(Last())
    model = Sequential(*layers, batch_first=data.draw(st.booleans()))
    steps, batch = 11, 13
    x = np.zeros((batch, steps, widths[0]) if model.batch_first else (steps, batch, widths[0]), np.float32)
    shape = model.forward(x)[0].shape
    symbols = {"T": str(steps), "B": str(batch)}
    last = [line for line in repr(model).splitlines()[1:-1] if re.match(r"  \d", line)][-1]
    found = re.search(r"\((\w+(?:, \w+)+)\) +[\d,]+$", last).group(1)
    assert ", ".join(symbols.get(part, part) for part in found.split(", ")) == ", ".join(map(str, shape))


class Cells(html.parser.HTMLParser):
    """The text of every cell."""

    def __init__(self):
        super().__init__()
        self.cells, self.open = [], []

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)
        if tag in ("td", "th"):
            self.cells.append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.cells[-1] += data


def test_html_has_what_the_table_has():
    class Odd(Tanh):
        def config(self):
            return {**super().config(), "note": "<b>&"}

    model = Sequential(Embedding(5, 4), Residual(Sequential(Odd())), Linear(4, 2))
    reader = Cells()
    reader.feed(model._repr_html_())
    assert reader.open == [] and "0\u2002Odd(note='<b>&')" in reader.cells
    words = lambda text: re.findall(r"\w+", text)  # noqa: E731
    assert words(" ".join(reader.cells)) == words(repr(model))


def test_errors_stay_one_line():
    model = Sequential(Linear(2, 2), Tanh())
    x = np.zeros((3, 2, 2), np.float32)
    with pytest.raises(ValueError, match="recurrent layer, got Sequential$"):
        fastrnn.diagnostics.gradient_flow(model, fastrnn.MSE(), x, x)
