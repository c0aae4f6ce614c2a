"""One layer in one direction over a batch: packed weights, buffers and the calls into the kernels.

Here a checked call of a layer becomes arrays for the kernels. Sizes: T steps, B batch, K inputs, H units, P panel
width, U units of a block; N = Σ lengths, the rows that are really computed.
"""

import itertools
import math
import operator

import numpy as np
from numba.core.config import NUMBA_NUM_THREADS

from .dispatch import TypedKernel
from .kernels import dense
from .kernels.layout import STRETCH, Buffers, Schedule, View, fill_schedule
from .kernels.memory import aligned_empty
from .kernels.packing import BackwardWeights, Weights, pack_backward, pack_forward, slot_gates
from .kernels.parallel import PROGRESS_STRIDE
from .kernels.recurrence import BackwardJob, ForwardJob, Noise, backward_pass, forward_pass
from .kernels.simd import PANEL_VECTORS, panel_width
from .parameters import aligned_pieces, aligned_zeros
from .spans import is_short, spans
from .sums import add_to, total
from .threads import threads_for, threads_for_elements

_fill_schedule = TypedKernel(fill_schedule)
_WORK_OF_A_ROW = 100  # multiply-adds that take as long as what else there is to do for a unit of a row
_WORK_OF_A_SHARE = 4e9  # multiply-adds, in calls that must be of a known number: some 40 ms on a fast core
_STEPS_OF_A_VECTOR_SUM = 256  # that a row's gradient of the cell's vectors is summed over before it goes into float64

_STEP_WORK_OF_A_THREAD = 8_000  # multiply-adds, some 60 ns; to meet after a step takes 100 to 200


def split_by_units(batch, hidden_size, gates, threads):
    """Whether threads share out a step's units rather than the batch.

    They then meet after every step, but each has its own part of W_h to read, and all rows to read it for: worth it
    where a thread would have few rows, or where W_h is too large for a core's cache in any case. The limits are those
    from which it was faster for LSTM, GRU and RNN with 64 to 1024 units and 1 to 64 rows on 2 threads (1 MiB of L2).
    """
    rows = gates * hidden_size
    if batch < threads:  # not all threads would have a row
        return hidden_size >= 64 and rows >= 128
    if rows * hidden_size > 2**21:
        return True
    few = 16 if rows * hidden_size > 2**20 else 8 if rows >= 640 else 2 if rows >= 384 else 0
    return batch <= few * threads


def threads_by_units(batch, hidden_size, gates, depth, dtype, threads):
    """Threads that share out the units of a step with products of `depth` columns: at least a vector of units each."""
    vectors = math.ceil(hidden_size * PANEL_VECTORS / panel_width(dtype))
    work = batch * gates * hidden_size * depth
    return max(1, min(threads, vectors, work // _STEP_WORK_OF_A_THREAD))


_NONE = np.empty(0, np.int64)
NO_NOISE = Noise((), 0, 0, 0)


class SequenceBatch:
    """The schedule of a batch, with the arrays behind it.

    Owned by a workspace (`keep`), which fills it anew for every forward pass, or made for one inference call.
    """

    def __init__(self, steps, batch, keep):
        self.keep = keep
        self.capacity = (steps, batch)
        self._per_step = np.empty((3, steps + 1), np.int64)
        self._per_row = np.empty((5, batch), np.int64)
        self._key = None

    @staticmethod
    def count_bytes(steps, batch):
        """About the bytes of the arrays."""
        return 8 * (3 * (steps + 1) + 5 * batch)

    def fill(self, steps, batch, lengths, by_units, parts, segments=None):
        """Lay out a batch of `steps` by `batch` for `parts` threads; lengths None: all full.

        With `segments` the sequences are those, and `steps` and `batch` the longest's and their number.
        """
        plain = lengths is None and segments is None
        key = (steps, batch, by_units, parts) if plain else None
        if key is not None and key == self._key:
            return
        self._key = None  # until all is laid out: Ctrl-C may come in between
        self.steps, self.batch, self.by_units, self.segments = steps, batch, by_units, segments
        self.ragged = lengths is not None
        if batch > self._per_row.shape[1]:
            self._per_row = np.empty((5, batch), np.int64)
        per_row = self._per_row[:, :batch]
        starts = sources = _NONE
        if segments is not None:
            lengths, starts, sources = segments.lengths, segments.starts, segments.sources
        elif lengths is None:
            lengths = per_row[0]
            lengths.fill(steps)
        counts, rows, state_rows = (a[: steps + 1] for a in self._per_step)
        bounds = np.empty((parts, 2), np.int64)
        progress = np.empty(parts * PROGRESS_STRIDE, np.int64)
        dilation = 1 if segments is None else segments.dilation
        self.schedule = Schedule(counts, rows, state_rows, *per_row[1:], dilation, bounds, progress)
        _fill_schedule(lengths, starts, sources, by_units, self.keep, STRETCH, self.schedule)
        self.rows = int(rows[steps]) if self.keep else min(STRETCH, steps) * batch
        self.state_rows = batch + self.rows if self.keep else 2 * batch
        self._key = key

    def shares(self, count):
        """The schedule `count` times, each for about as many of the rows.

        Never of one part alone, which would take all rows to be its own.
        """
        threads = len(self.schedule.bounds)
        parts = max(2, threads)
        for share in range(count):
            first, last = self.batch * share // count, self.batch * (share + 1) // count
            places = [first + (last - first) * min(part, threads) // threads for part in range(parts + 1)]
            bounds = np.array(list(itertools.pairwise(places)), np.int64)
            yield self.schedule._replace(bounds=bounds, progress=np.empty(parts * PROGRESS_STRIDE, np.int64))

    def places(self, reverse):
        """Where the rows of all steps stand in the caller's arrays and here: five arrays (N,).

        The step and the batch index there; the row in x and z, and those in the states before and after the step.
        """
        schedule = self.schedule
        counts = schedule.counts[:-1]
        t = np.repeat(np.arange(self.steps), counts)
        row = np.arange(t.size) - np.repeat(np.cumsum(counts) - counts, counts)
        step = schedule.lengths[row] - 1 - t if reverse else t
        time = schedule.starts[row] + step * schedule.dilation
        states = schedule.state_rows
        return time, schedule.sources[row], schedule.rows[t] + row, states[t] + row, states[t + 1] + row


def view(array, batch_first, first, columns):
    """A `View` of columns `first` … of a contiguous (T,B,F) array, (B,T,F), or (B,F) as one step."""
    width = array.shape[-1]
    if array.ndim == 2:
        time, batch = 0, width
    elif batch_first:
        time, batch = width, array.shape[1] * width
    else:
        time, batch = array.shape[1] * width, width
    return View(array.reshape(-1), time, batch, first, columns)


class _Product:
    """Weights of one layer and direction, packed when first needed and after every change."""

    def __init__(self, parameters, names, input_size, hidden_size, cell):
        self.parameters = parameters
        # of weight_ih, weight_hh, bias_ih, bias_hh; None where there is none
        self.names = tuple(name if name in parameters else None for name in names)
        self._present = tuple(name for name in self.names if name)
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.panel = panel_width(parameters.dtype)
        self.slot_gates = slot_gates(cell)
        self.units = self.panel // self.slot_gates.shape[1]
        self.blocks = math.ceil(hidden_size / self.units)
        # of the runs of slots of the input's product and the recurrent ones: the first, and the gate of each
        products = np.delete(self.slot_gates, 1, 0)
        runs = [np.flatnonzero(gates >= 0) for gates in products]
        self.firsts = tuple([int(run[0]) for run in runs])
        self.gates = tuple([gates[run] for gates, run in zip(products, runs, strict=True)])
        matrix, vector = np.empty((0, 0), parameters.dtype), np.empty(0, parameters.dtype)
        self._empty = (matrix, matrix, vector, vector)
        self.vector_names = ()  # (name, count) of the parameters that the cell takes as vectors
        self.by_row = cell is not None and cell.by_row
        self.vectors = ()  # what is in them, (⌈H/P⌉·P,) each
        self._forward = self._backward = None
        self._versions = [None, None]
        self._pack = TypedKernel(pack_forward), TypedKernel(pack_backward)
        self._accumulate = [TypedKernel(dense.accumulate_weight_gradients) for _ in range(4)]  # for 0 to 3 jobs

    def _tensors(self, gradient=False):
        """The four tensors of `names`, or their gradients; empty arrays for what there isn't."""
        source = self.parameters.gradient_target if gradient else self.parameters.tensor
        return [source(name) if name else empty for name, empty in zip(self.names, self._empty, strict=True)]

    def padded(self, columns):
        """The columns of the panels that hold so many."""
        return math.ceil(columns / self.panel) * self.panel

    def _panels(self, *shape):
        return aligned_empty(math.prod(shape), self.parameters.dtype).reshape(shape)

    def forward_weights(self):
        """The packed `Weights`, never stale."""
        if self._versions[0] != self.parameters.version:
            with self.parameters.lock:
                if self._versions[0] != self.parameters.version:
                    self._pack_forward()
        return self._forward

    def _pack_forward(self):
        version = self.parameters.version
        if self._forward is None:
            depth = self.hidden_size if self.names[1] else 0
            recurrent_gates = sum([gates.size for gates in self.gates[1:]])
            self._forward = Weights(
                self._panels(self.blocks, self.input_size, self.gates[0].size * self.units),
                self._panels(self.blocks, depth, recurrent_gates * self.units),
                self._panels(self.blocks * self.panel),
            )
        self._pack[0](
            *self._tensors(), self.hidden_size, self.gates[0], self.gates[1:],
            self.firsts, self._forward, threads_for_elements(self._forward.input.size + self._forward.recurrent.size),
        )  # fmt: skip
        self._pack_vectors()
        self._versions[0] = version

    def _pack_vectors(self):
        if self.vector_names and not self.vectors:
            size = self.padded(self.hidden_size)
            count = sum(count for _, count in self.vector_names)
            self.vectors = tuple(aligned_zeros(size, self.parameters.dtype) for _ in range(count))
        vectors = iter(self.vectors)
        for name, count in self.vector_names:
            for values in self.parameters.tensor(name).reshape(count, self.hidden_size):
                next(vectors)[: self.hidden_size] = values

    def backward_weights(self):
        """The packed `BackwardWeights`, never stale."""
        version = self.parameters.version  # before packing: what is written meanwhile is another
        if self._versions[1] != version:
            if self._backward is None:
                input_shape, recurrent_shapes, zero_shape = self.backward_shapes()
                self._backward = BackwardWeights(
                    self._panels(*input_shape),
                    tuple(self._panels(*shape) for shape in recurrent_shapes),
                    self._panels(*zero_shape),
                )
            self._pack[1](
                *self._tensors()[:2], self.hidden_size, self.gates[0], self.gates[1:],
                self.units, self._backward,
                threads_for_elements(self._backward.input.size + sum([w.size for w in self._backward.recurrent])),
            )  # fmt: skip
            self._versions[1] = version
        return self._backward

    def backward_shapes(self):
        """The shapes of `BackwardWeights`' arrays: one, a tuple of them, one."""
        panels = math.ceil(self.hidden_size / self.panel) if self.names[1] else 0
        rows = [self.blocks * gates.size * self.units for gates in self.gates]
        input_shape = math.ceil(self.input_size / self.panel), rows[0], self.panel
        return input_shape, tuple([(panels, n, self.panel) for n in rows[1:]]), (self.panel,)

    def gradient_job(self, index, batch, buffers, a, a_rows, a_starts):
        """The job of a weight's gradient, for what product `index` takes of it (0: input, from 1: recurrent, a stage
        each); `a` is its factor."""
        schedule = batch.schedule
        return dense.GradientJob(
            buffers.recurrent[1] if index and self.by_row else buffers.dz, buffers.x_rows, self.units,
            self.firsts[index], self.gates[index], self.hidden_size, schedule.rows, a, a_rows, a_starts,
            schedule.counts, dense.steps_per_block(batch.batch), self._tensors(gradient=True)[min(index, 1)],
        )  # fmt: skip

    def bias_job(self, batch, buffers):
        """The job of both biases' gradients."""
        schedule = batch.schedule
        return dense.BiasJob(
            buffers.dz, buffers.x_rows, self.units, self.slot_gates, self.hidden_size, schedule.rows, schedule.counts,
            dense.steps_per_block(batch.batch), tuple(self._tensors(gradient=True)[2:]),
        )  # fmt: skip

    def accumulate_gradients(self, batch, arrays):
        """Add the gradients of the last backward pass on `arrays` to the parameters' own."""
        buffers = arrays.fit(batch)
        if arrays.jobs is None or arrays.gradients is not self.parameters.flat_gradients:
            arrays.jobs = self.gradient_jobs(batch, buffers), self.bias_job(batch, buffers)
            arrays.gradients = self.parameters.flat_gradients
        jobs, bias_job = arrays.jobs
        overwrite = self.parameters.count_as_zero(self._present)
        work = batch.rows * sum([job.gradient.size for job in jobs])
        threads, shares = threads_for(work), math.ceil(work / _WORK_OF_A_SHARE) or 1
        for share in range(shares):
            self._accumulate[len(jobs)](jobs, bias_job, overwrite, arrays.scratch, threads, share, shares)
        if arrays.takes_tokens:
            self._accumulate_token_gradient(batch, arrays, overwrite)
        if overwrite:
            self.parameters.written(self._present)


class PassBuffers:
    """The arrays of one pass, for up to `steps` by `batch`.

    Owned by the workspace (`keep`: every step has a place), or by one inference call (a stretch of steps has).
    Flat; `fit` lays them out for a batch. Bytes are dominated by z, N·⌈H/U⌉·P numbers. With `tokens` there is no room
    for real input.
    """

    def __init__(self, product, steps, batch, keep, states, tokens=False):
        dtype = product.parameters.dtype
        panel = product.panel
        rows = steps * batch if keep else min(steps, STRETCH) * batch
        inputs, units = 0 if tokens else product.padded(product.input_size), product.padded(product.hidden_size)
        self.keep, self.rows = keep, rows
        self._states, self._inputs, self._units = states, inputs, units
        self._vectors = sum([count for _, count in product.vector_names])
        # gradients of the cell's vectors over all rows and steps, and over some steps: float64, in panels
        panels = units // panel if keep else 0
        self.vector_totals = np.empty((self._vectors, panels, panel))
        self.vector_sum = np.empty((panels, panel))
        # of the weight gradients, for every thread there may be
        scratch = NUMBA_NUM_THREADS * dense.SCRATCH_TILES * panel * panel // PANEL_VECTORS if keep else 0
        sizes = [rows * inputs, rows * product.blocks * panel, scratch]
        dx_rows = min(steps, STRETCH) * batch
        sizes += self._sequence_sizes(batch, dx_rows)
        self.x, self.z, self.scratch, *by_sequence = aligned_pieces(sizes, dtype)
        self._take(batch, dx_rows, by_sequence)
        self.takes_tokens = tokens
        self.tokens = self.token_order = None  # (rows,) int64, where the input is tokens
        self.repeatable = False  # whether `z` has to outlive a backward pass
        self._own_dz = None  # (as z), if so
        self._recurrent = ()  # (as z) each: the recurrent product, and its gradient, of a cell that keeps them apart
        if product.by_row:
            self._recurrent = tuple(aligned_pieces([self.z.size, self.z.size if keep else 0], dtype))
        self._product = product
        self._key = self._fitted = self._fitted_backward = None  # the last batch, and what `fit` gave for it
        self.jobs = self.gradients = None  # of the weight gradients for that batch, and the buffer they are added to

    def _sequence_sizes(self, batch, dx_rows):
        """The sizes of the arrays that go with the number of sequences, and with that of the rows in a stretch."""
        if not self.keep:
            return [2 * batch * self._units] * self._states
        gradients = [batch * self._units] * (self._states + self._vectors)
        return [*[(batch + self.rows) * self._units] * self._states, dx_rows * self._inputs, *gradients]

    def _take(self, batch, dx_rows, arrays):
        """Use arrays of these sizes."""
        self.states = tuple(arrays[: self._states])
        self.dx, *gradients = arrays[self._states :] if self.keep else [self.x[:0]] * (1 + self._states + self._vectors)
        self.d_states, self.d_vectors = tuple(gradients[: self._states]), tuple(gradients[self._states :])
        self._sequences, self._dx_rows = batch, dx_rows

    @staticmethod
    def count_bytes(product, steps, batch, states, keep=True):
        """About the bytes of the arrays, before any is made."""
        inputs, units = product.padded(product.input_size), product.padded(product.hidden_size)
        stretch = min(steps, STRETCH) * batch
        rows = steps * batch if keep else stretch
        as_z = (4 if keep else 3) if product.by_row else 1  # `z`, `_own_dz`, `_recurrent`
        numbers = rows * (inputs + as_z * product.blocks * product.panel)
        if keep:
            by_sequence = 2 * states + sum([count for _, count in product.vector_names])
            numbers += rows * states * units + batch * by_sequence * units + stretch * inputs
            numbers += 2 * (1 + by_sequence - 2 * states) * units  # in float64
        else:
            numbers += 2 * batch * states * units
        return numbers * product.parameters.dtype.itemsize

    def fit(self, batch):
        """The kernels' view of the arrays for a `SequenceBatch`."""
        key = batch.schedule, self.takes_tokens, self.repeatable
        if self._key is not None and all(map(operator.is_, key, self._key)):
            return self._fitted
        self._key = None  # until all fits: Ctrl-C may come in between
        dx_rows = min(STRETCH, batch.steps) * batch.batch
        if batch.batch > self._sequences or dx_rows > self._dx_rows:  # resets have made more of them
            sizes = max(batch.batch, self._sequences), max(dx_rows, self._dx_rows)
            self._take(*sizes, aligned_pieces(self._sequence_sizes(*sizes), self.z.dtype))
        if self.takes_tokens and self.tokens is None:
            self.tokens, self.token_order = np.empty((2, self.rows), np.int64)
        own_dz = self.repeatable or self._product.by_row
        if own_dz and self._own_dz is None:
            self._own_dz = aligned_empty(self.z.size, self.z.dtype)
        self.jobs = None
        x, dz = self.tokens if self.takes_tokens else self.x, self._own_dz if own_dz else self.z
        self._fitted = Buffers(
            x, self.z, dz, self._recurrent, self.states, self.d_states, self.d_vectors, self.dx, batch.rows,
            batch.state_rows, dx_rows,
        )  # fmt: skip
        self._fitted_backward = self._fitted._replace(x=self.x)
        self._key = key
        return self._fitted

    def fit_backward(self, batch):
        """`fit` for the backward pass, which does not read the input: of one type whatever that was."""
        self.fit(batch)
        return self._fitted_backward

    def state_at(self, part, rows):
        """A part of the states in these rows: (n,H)."""
        panel, count = self._product.panel, self._fitted.state_rows
        panels = self.states[part][: self.states[part].size // (count * panel) * count * panel]
        return self._unit_rows(panels.reshape(-1, count, panel)[:, rows])

    def gates_at(self, rows):
        """The values of the cell's gates in these rows, by name: (n,H) each."""
        product = self._product
        if product.by_row:
            names, size = product.cell.gate_names, product.hidden_size
            gates = np.empty((len(names), len(rows), product.padded(size)), self.z.dtype)
            product.cell.row_gates(self.z, self._recurrent[0], rows, self._fitted.x_rows, product.vectors, size, gates)
            return dict(zip(names, gates[..., :size], strict=True))
        count, blocks = self._fitted.x_rows, product.blocks
        kept = self.z[: blocks * count * product.panel].reshape(blocks, count, -1, product.units)[:, rows]
        return {name: self._unit_rows(kept[:, :, i]) for i, name in enumerate(product.cell.gate_names) if name}

    def _unit_rows(self, blocks):
        """(n,H) out of blocks of columns (blocks,n,columns)."""
        return blocks.transpose(1, 0, 2).reshape(blocks.shape[1], -1)[:, : self._product.hidden_size]


class RecurrentPass(_Product):
    """A recurrent layer in one direction.

    `cell` is what is trained; where that takes noise, of which inference needs none, `plain_cell` is used for it.
    """

    def __init__(self, cell, parameters, names, vector_names, input_size, hidden_size, reverse, plain_cell):
        super().__init__(parameters, names, input_size, hidden_size, cell)
        self.vector_names = vector_names
        self.cell = cell
        self.reverse = reverse
        self._forward_passes = {
            (noisy, tokens): TypedKernel(forward_pass((cell if noisy else plain_cell).name, tokens))
            for noisy in (False, True)
            for tokens in (False, True)
        }
        self._backward_pass = TypedKernel(backward_pass(cell.name))
        self._scatter = TypedKernel(dense.accumulate_token_gradient)
        self._counts = None  # (K,) int64 of tokens, work space

    def _calls(self, job, batch, steps):
        """The calls in which `steps` steps are done: the job, the first step and past the last, counted from 0.

        The steps of a stretch keep together, or stay within it. A step that takes long is done for a share of the
        rows at a time.
        """
        products = self.input_size + self.hidden_size + _WORK_OF_A_ROW
        units = self.blocks * self.panel  # of one gate of them or several, and of padding
        work = _STEP_WORK_OF_A_THREAD + batch.batch * units * products
        if is_short(steps * work):
            return ((job, 0, steps, batch.by_units),)
        return self._calls_of_long_work(job, batch, steps, work)

    @staticmethod
    def _calls_of_long_work(job, batch, steps, work):
        shares = min(math.ceil(work / _WORK_OF_A_SHARE), batch.batch)
        if shares == 1:
            for first, last in spans(steps, work, STRETCH):
                yield job, first, last, batch.by_units
            return
        for schedule in batch.shares(shares):
            for first, last in spans(steps, work / shares, STRETCH):
                yield job._replace(schedule=schedule), first, last, False

    def forward(self, x, y, batch, arrays, initial_state, final_state, noise=NO_NOISE):
        """Run over `x` into `y`, two `View`s; states are tuples of flat (B·H) arrays. `x` may hold tokens."""
        arrays.takes_tokens = x.data.dtype == np.int64
        weights = self.forward_weights()
        whole = ForwardJob(
            x, y, self.reverse, initial_state, final_state, weights, self.vectors, noise, batch.schedule,
            arrays.fit(batch),
        )  # fmt: skip
        run = self._forward_passes[bool(noise.arrays), arrays.takes_tokens]
        for job, begin, end, by_units in self._calls(whole, batch, batch.steps):
            run(job, begin, end, STRETCH, by_units)

    def backward(
        self, dy, dx, add_dx, batch, arrays, d_final, d_initial, noise=NO_NOISE, carry_factor=1.0, parameters=True
    ):
        """Gradients of the last `forward` on `arrays`: into `dx` and `d_initial`, added to the `parameters`' if wanted.

        After tokens there is no `dx`: any `View` without columns.
        """
        buffers = arrays.fit_backward(batch)
        weights = self.backward_weights()
        whole = BackwardJob(
            dy, dx, add_dx, self.reverse, d_final, d_initial, weights, self.vectors, noise, carry_factor,
            batch.schedule, buffers,
        )  # fmt: skip
        for sums in buffers.d_vectors:
            sums.fill(0)
        arrays.vector_totals.fill(0)
        steps_at_once = _STEPS_OF_A_VECTOR_SUM if self.vector_names else batch.steps
        for start in reversed(range(0, batch.steps, steps_at_once)):  # from step 0 on, whatever the padding
            stop = min(start + steps_at_once, batch.steps)
            for job, first, last, by_units in self._calls(whole, batch, stop - start):
                self._backward_pass(job, stop - last, stop - first, STRETCH, by_units)
            for sums, totals in zip(buffers.d_vectors, arrays.vector_totals, strict=True):
                rows = sums[: batch.batch * totals.size].reshape(-1, batch.batch, self.panel)
                add_to(totals, total(rows, 1, out=arrays.vector_sum))
                rows.fill(0)
        if parameters:
            self.accumulate_gradients(batch, arrays)
            self._add_to_vector_gradients(arrays.vector_totals)

    def _accumulate_token_gradient(self, batch, arrays, overwrite):
        buffers = arrays.fit(batch)
        if self._counts is None:
            self._counts = np.empty(self.input_size, np.int64)
        job = self.gradient_job(0, batch, buffers, buffers.z, buffers.x_rows, batch.schedule.rows)
        work = batch.rows * self.gates[0].size * self.hidden_size
        lengths = np.array([batch.rows], np.int64)
        shares = math.ceil(_WORK_OF_A_ROW * work / _WORK_OF_A_SHARE) or 1
        for share in range(shares):
            self._scatter(
                job, arrays.tokens, lengths, self._counts, arrays.token_order, overwrite, arrays.scratch,
                threads_for(work), share, shares,
            )  # fmt: skip

    def _add_to_vector_gradients(self, totals):
        """Add the sums over all rows and steps, in panels, to the gradients of the cell's vectors."""
        sums = iter(totals)
        for name, count in self.vector_names:
            for gradient in self.parameters.gradient(name).reshape(count, self.hidden_size):
                add_to(gradient, next(sums).reshape(-1)[: self.hidden_size])

    def gradient_jobs(self, batch, buffers):
        """The jobs of both weights' gradients; that of tokens' weight is not a product's."""
        schedule, rows = batch.schedule, buffers.state_rows
        jobs = [self.gradient_job(1, batch, buffers, buffers.states[0], rows, schedule.state_rows)]
        if self.cell.before:  # what the stage before gave at a step stands where the state after it does
            jobs.append(self.gradient_job(2, batch, buffers, buffers.states[-1], rows, schedule.state_rows[1:]))
        if buffers.x.dtype == buffers.z.dtype:
            jobs.insert(0, self.gradient_job(0, batch, buffers, buffers.x, buffers.x_rows, schedule.rows))
        return tuple(jobs)


class DensePass(_Product):
    """A linear layer, over all steps alike."""

    def __init__(self, parameters, in_features, out_features):
        super().__init__(parameters, ("weight", None, "bias", None), in_features, out_features, None)
        self._forward_pass = TypedKernel(dense.dense_forward)
        self._backward_pass = TypedKernel(dense.dense_backward)

    def _calls(self, batch):
        """What is done in a call each: the steps, and a share of their rows."""
        work = batch.batch * self.blocks * self.panel * (self.input_size + _WORK_OF_A_ROW)
        shares = math.ceil(work / _WORK_OF_A_SHARE)  # more than one for a batch so large that a step takes long
        for begin, end in spans(batch.steps, work, STRETCH):
            for share in range(shares):
                yield begin, end, STRETCH, share, shares

    def forward(self, x, y, batch, arrays):
        """y = x Wᵀ + b; x, y: `View`s."""
        weights, buffers = self.forward_weights(), arrays.fit(batch)
        for call in self._calls(batch):
            self._forward_pass(x, y, weights, batch.schedule, buffers, *call)

    def backward(self, dy, dx, batch, arrays, parameters=True):
        """dx = dy W into the `View` `dx`, and the `parameters`' gradients added if wanted."""
        weights, buffers = self.backward_weights(), arrays.fit(batch)
        for call in self._calls(batch):
            self._backward_pass(dy, dx, weights, batch.schedule, buffers, *call)
        if parameters:
            self.accumulate_gradients(batch, arrays)

    def gradient_jobs(self, batch, buffers):
        """The job of the weight's gradient, as a tuple."""
        return (self.gradient_job(0, batch, buffers, buffers.x, buffers.x_rows, batch.schedule.rows),)
