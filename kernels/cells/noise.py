"""Cells that are trained with noise: zoneout around any cell, and dropout of the candidate in those that have one."""

from ..jit import formula
from .cell import Cell


@formula
def _blend_one(keep, previous, state):
    return (keep[0] * previous[0] + (1.0 - keep[0]) * state[0],)


@formula
def _blend_two(keep, previous, state):
    return _blend_one(keep, previous, state)[0], keep[1] * previous[1] + (1.0 - keep[1]) * state[1]


@formula
def _share_one(keep, d_state):
    return ((1.0 - keep[0]) * d_state[0],)


@formula
def _share_two(keep, d_state):
    return (1.0 - keep[0]) * d_state[0], (1.0 - keep[1]) * d_state[1]


@formula
def _rest_one(keep, d_state, d_previous):
    return (d_previous[0] + keep[0] * d_state[0],)


@formula
def _rest_two(keep, d_state, d_previous):
    return d_previous[0] + keep[0] * d_state[0], d_previous[1] + keep[1] * d_state[1]


_FORMULAS = {1: (_blend_one, _share_one, _rest_one), 2: (_blend_two, _share_two, _rest_two)}  # by parts of the state


def with_zoneout(cell):
    """`cell` with zoneout (Krueger et al. 2017): a unit keeps its state where the noise is 1.

    h_t = m h_{t−1} + (1 − m) h′_t, where h′ is the cell's, and likewise c with a noise of its own. At inference m is
    the probability. The cell's own noise comes first.
    """
    own, cell_forward, cell_backward = cell.noise, cell.forward, cell.backward
    blend, share, rest = _FORMULAS[cell.states]

    @formula
    def zoneout_forward(slots, previous, vectors, noise):
        kept, state = cell_forward(slots, previous, vectors, noise[:own])
        return kept, blend(noise[own:], previous, state)

    @formula
    def zoneout_backward(kept, previous, d_state, vectors, noise):
        d_slots, d_previous, d_vectors = cell_backward(
            kept, previous, share(noise[own:], d_state), vectors, noise[:own]
        )
        return d_slots, rest(noise[own:], d_state, d_previous), d_vectors

    return cell._replace(
        name=f"{cell.name}_zoneout", forward=zoneout_forward, backward=zoneout_backward, noise=own + cell.states
    )


def with_dropout(cell: Cell, forward, backward):
    """`cell` with its candidate multiplied by the noise (Semeniuta et al. 2016), by these formulas: dropout that does
    not touch the memory, for what is in it stays."""
    return cell._replace(name=f"{cell.name}_dropout", forward=forward, backward=backward, noise=1)
