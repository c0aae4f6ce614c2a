"""A batch of sequences as a recurrent layer runs through it, where that is not one after the other from end to end.

A reset ends one sequence and begins another. With dilation d the state of step t comes from step t − d (Chang et al.
2017), so that a sequence falls into d sequences that know nothing of each other, each with a state of its own: a
state's d parts stand one after the other in its last dimension, part p being the one that step p takes. To the kernels
these are sequences like others, which begin somewhere in the caller's arrays and have their steps some way apart.
"""

import numpy as np

from .sums import add_to, total


class Segments:
    """The sequences that a batch falls into, R of them.

    lengths, starts, sources (R,): steps, first step and batch index of each.

    For either direction, [0] forward and [1] in reverse:
    initial (R,): which of the batch's B·d states each begins with, −1 where a sequence begins anew.
    final (B·d): the segment that leaves each of the batch's states behind, or −1.
    passed (B·d): where no segment does, the initial state that is handed on as it is; −1 where it is that of a new
        sequence.
    """

    def __init__(self, steps, batch, lengths, resets, dilation):
        """`resets`: (T,B) booleans or None; `lengths`: (B,) or None."""
        ends = np.full(batch, steps, np.int64) if lengths is None else lengths
        begins = np.zeros((batch, steps), bool) if resets is None else resets.T & (np.arange(steps) < ends[:, None])
        anew = begins[:, 0].copy()
        begins[:, 0] = True
        source, start = np.nonzero(begins)
        is_last = np.append(source[1:] != source[:-1], True)
        stop = np.where(is_last, ends[source], np.append(start[1:], 0))
        part = np.arange(dilation)
        sizes = stop - start
        own = sizes[:, None] > part  # which of a segment's interleaved sequences have a step
        index = np.cumsum(own).reshape(own.shape) - 1
        self.dilation = dilation
        self.lengths = ((sizes[:, None] - part + dilation - 1) // dilation)[own]
        self.starts = (start[:, None] + part)[own]
        self.sources = np.repeat(source, own.sum(1))
        is_first = np.append(True, is_last[:-1])
        goes_on = is_first & ~anew[source]  # begins with the given state
        states = source[:, None] * dilation + part
        self.initial = [np.where(goes_on[:, None], states, -1)[own], np.where(is_last[:, None], states, -1)[own]]
        # step n + p takes the state after step n + p − d, if the last segment has it
        last = np.flatnonzero(is_last)
        following = sizes[last][:, None] + part
        left = np.where(following >= dilation, index[last[:, None], (following - dilation) % dilation], -1)
        passed = np.where((following < dilation) & goes_on[last][:, None], states[last, 0][:, None] + following, -1)
        first = np.flatnonzero(is_first)
        self.final = [left.reshape(-1), index[first, 0]]
        self.passed = [passed.reshape(-1), np.full(batch, -1)]

    @property
    def count(self):
        return self.lengths.size

    def begin(self, direction, state, out):
        """Write into the segments' initial states (R,H) those of the batch (B·d,H); the others are new sequences'."""
        index = self.initial[direction]
        given = index >= 0
        out[given] = state[index[given]]

    def end(self, direction, after, state, out):
        """Write into the batch's final states (B·d,H) the segments' (R,H), and the initial ones that are handed on.

        What stands in `out` otherwise, and where `state` is None, is a new sequence's state.
        """
        left, passed = self.final[direction], self.passed[direction]
        out[left >= 0] = after[left[left >= 0]]
        if state is not None:
            out[passed >= 0] = state[passed[passed >= 0]]

    def end_gradients(self, direction, d_final, out):
        """Write into the gradients of the segments' final states (R,H) those of the batch's."""
        left = self.final[direction]
        out[left[left >= 0]] = d_final[left >= 0]

    def begin_gradients(self, direction, d_segments, d_final, out):
        """The gradients of the batch's initial states (B·d,H), from those of the segments' and of the final states.

        Returns that of a new sequence's state (H,), in float64. `d_final` may be None for zeros.
        """
        index, left, passed = self.initial[direction], self.final[direction], self.passed[direction]
        given = index >= 0
        out[...] = 0
        out[index[given]] = d_segments[given]
        d_new = total(d_segments[~given])
        if d_final is not None:
            out[passed[passed >= 0]] += d_final[passed >= 0]
            add_to(d_new, total(d_final[(left < 0) & (passed < 0)]))
        return d_new
