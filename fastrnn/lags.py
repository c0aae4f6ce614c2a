"""All steps of a batch of sequences side by side, each as a sequence of one step.

Given the state before every step, the steps don't wait for each other, forward or backward. What each step's loss does
to states and parameters k steps earlier then comes from k backward passes over T·B rows: in pass j the gradient that
the loss at t has sent to the state before step t − j enters step t − j − 1 as that of its final state.

Row t·B + b is step t of sequence b, also where the model is batch first.
"""

import numpy as np

from .bptt import Buffers, map_state


def rows_of(array: np.ndarray, batch_first: bool) -> np.ndarray:
    """(T,B,…), or (B,T,…) if `batch_first`, as (T·B,…)."""
    if batch_first:
        array = array.swapaxes(0, 1)
    return np.ascontiguousarray(array).reshape(-1, *array.shape[2:])


def states_before(model, rows: np.ndarray, state, resets: np.ndarray):
    """The state before every step, for the rows of `OneStep`.

    rows: input, (T·B,…). state: before the first step, None only where all sequences are reset there. resets: (T,B)
    booleans; where true, the entry is not that of the sequence that ended, and means nothing.
    """
    steps, batch = resets.shape
    x = rows.reshape(steps, batch, *rows.shape[1:])
    before = []
    for x_t, resets_t in zip(x, resets, strict=True):
        before.append(state)
        _, state = model.step(x_t, state, resets=resets_t)
    if before[0] is None:
        before[0] = map_state(np.zeros_like, state)
    return map_state(lambda *parts: np.concatenate(parts, axis=1), before[0], *before[1:])


class OneStep:
    """One step of each of n sequences, to be gone back through any number of times.

    x: (n,…) input. state: before the step, as for a batch of n. resets: (n,) booleans, as in `forward`; these rows have
    no gradient with respect to `state`.

    `y` is the output, (n,F). `workspace` holds the step until the next `OneStep` of the same `buffers` takes its place.
    """

    def __init__(self, model, buffers: Buffers, x: np.ndarray, state, resets: np.ndarray):
        self._model = model
        axis = 1 if model.batch_first else 0  # of the one step
        self.workspace = buffers.workspace(model, 1, len(x))
        self.workspace.repeatable = True
        x, resets = np.expand_dims(x, axis), np.expand_dims(resets, axis)
        y, _ = model.forward(x, state, resets=resets, workspace=self.workspace)
        self._shape = y.shape
        self.y = y.reshape(-1, y.shape[-1]).copy()

    def backward(self, dy: np.ndarray, dstate=None):
        """The gradient with respect to the state before the step, good until the next call; `dy`: (n,F)."""
        _, dstate = self._model.backward(dy.reshape(self._shape), dstate, workspace=self.workspace)
        return dstate


def one_lag_back(dstate, batch: int):
    """Gradients with respect to the state before each row's step, as those of the final state of the step before.

    The rows of the last step get 0. Fresh arrays.
    """

    def shifted(array):
        moved = np.zeros_like(array)
        moved[:, :-batch] = array[:, batch:]
        return moved

    return map_state(shifted, dstate)
