"""What a cell is to the engine: names of its parts and two formulas."""

from collections.abc import Callable
from typing import NamedTuple


class Cell(NamedTuple):
    """A recurrent cell of one stage: two matrix products and a pointwise formula.

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

    @property
    def gates(self):
        """Gates in PyTorch's weight matrices, which have gates·H rows."""
        return len(self.input_slots)
