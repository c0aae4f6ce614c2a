"""What a cell is to the engine: names of its parts and two formulas."""

from collections.abc import Callable
from typing import NamedTuple


class Stage(NamedTuple):
    """What a cell of two stages does before the other: a product with h_{t−1}, then a pointwise formula.

    Its formulas are as those of `Cell`, on the same slots. `forward` gives, in place of the state, what the second
    product takes in place of h_{t−1}: in the engine this is a further part of the state, last of all, which is not
    carried on to the next step. `backward` takes its gradient there, after that of the state before as the other stage
    left it, which it returns with its own share added; in the slots it finds what the other stage's `backward` gave.
    """

    slots: tuple[int, ...]  # of the product with h_{t−1}
    forward: Callable
    backward: Callable


class Cell(NamedTuple):
    """A recurrent cell: two matrix products and a pointwise formula, and maybe another stage before that.

    The products leave pre-activations in `slots`, numbered 0 to slots − 1, which stand for all units alike. The product
    with the input x_t fills the slots of `input_slots`, that with h_{t−1} is added in those of `recurrent_slots`; each
    names the slot of every gate in PyTorch's order and covers a run of neighbouring slots. Every slot has a bias.

    `forward(slots, previous, vectors, noise) -> kept, state`: from the pre-activations and the state before the step,
    as tuples of vectors, the values that the backward pass needs (one a slot) and the new state.

    `backward(kept, previous, d_state, vectors, noise) -> d_slots, d_previous, d_vectors`: from the gradient of the loss
    with respect to the new state, those with respect to the pre-activations and, past the products, to the state before
    and to the cell's vectors.

    The state's first part is h, the cell's output and what the recurrent product takes. `vectors` are parameters of the
    cell's own, a number a unit; `noise` are numbers for each unit, step and sequence that are drawn beforehand.

    With a stage `before`, that stage's slots are filled by the product with h_{t−1}, and the other recurrent slots by
    one with what the stage gives.

    A cell `by_row` sums over a row's units: its formulas take the whole row, from where it stands in the buffers, and
    keep the two products apart; see `layer_norm_lstm`.
    """

    name: str
    slots: int
    states: int
    input_slots: tuple[int, ...]
    recurrent_slots: tuple[int, ...]
    forward: Callable
    backward: Callable
    gate_names: tuple[str, ...]  # of the kept values, "" for one that is no gate
    vectors: tuple[tuple[str, int], ...] = ()  # (name, count), of parameters of count·H numbers
    noise: int = 0  # how many numbers a unit are drawn for a step
    before: Stage | None = None
    by_row: bool = False
    row_gates: Callable | None = None  # by row: a kernel for the values of the gates, which are not kept

    @property
    def gates(self):
        """Gates in PyTorch's weight matrices, which have gates·H rows."""
        return len(self.input_slots)

    @property
    def products(self):
        """The slots of each stage's recurrent product, in the order of the stages."""
        if self.before is None:
            return (self.recurrent_slots,)
        return self.before.slots, tuple(slot for slot in self.recurrent_slots if slot not in self.before.slots)

    @property
    def parts(self):
        """How many parts the state has in the engine, with what one stage gives to the next."""
        return self.states + len(self.products) - 1
