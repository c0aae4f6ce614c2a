"""Cases that go through the losses, the optimisers and the trainer, as those of `layers` do through layers."""

import numpy as np

import fastrnn

from . import sizes
from .layers import normal, told


def draw_loss(rng, wide):
    """Every loss: without a mask, with booleans, with weights, and with booleans for each element."""
    dtype = str(rng.choice(sizes.DTYPES)) if wide else "float32"
    steps, batch = sizes.batch(rng)
    # now and then enough for several threads, which losses take from 2 ** 14 elements on
    classes = int(rng.choice([sizes.features(rng, dtype), sizes.features(rng, dtype), 16384 // (steps * batch) + 1]))
    smoothing, seed = float(rng.choice([0, 0.1])), int(rng.integers(1 << 30))

    def run():
        numbers = np.random.default_rng(seed)
        y, real = (normal(numbers, (steps, batch, classes), dtype) for _ in range(2))
        labels, weights = numbers.integers(0, classes, (steps, batch)), numbers.random((steps, batch))
        if steps * batch > 1:
            labels[0, 0] = -100
        losses = (
            (fastrnn.MSE(), real),
            (fastrnn.MAE(reduction="sum"), real),
            (fastrnn.Huber(0.5), real),
            (fastrnn.BinaryCrossEntropy(), weights[..., np.newaxis].repeat(classes, 2).astype(dtype)),
        )
        wide_y = normal(numbers, (steps, batch, 3 * classes), dtype)
        results = []
        for mask in (None, weights > 0.2, weights * (weights > 0.3), numbers.random(y.shape) > 0.5):
            if mask is not None:
                mask[-1, -1] = 1
            for loss, targets in losses:
                results += loss(y, targets, mask=mask)
            if mask is None or mask.ndim == 2:
                results += fastrnn.CrossEntropy(label_smoothing=smoothing)(y, labels, mask=mask)
            results += fastrnn.Quantile()(wide_y, real, mask=mask, out=np.empty_like(wide_y))
        return results

    return f"losses, {dtype}, T={steps}, B={batch}, C={classes}, label_smoothing={smoothing}, seed={seed}", run


def draw_optimizer(rng, wide):
    """Every optimiser in its forms, and clipping."""
    dtype = str(rng.choice(sizes.DTYPES)) if wide else "float32"
    # now and then enough for several threads, which updates take from 2 ** 14 numbers on
    inputs, outputs = sizes.features(rng, dtype), int(rng.choice([sizes.features(rng, dtype), 1031]))
    seed = int(rng.integers(1 << 30))

    def run():
        numbers, results = np.random.default_rng(seed), []
        for optimizer in (
            fastrnn.SGD(0.1), fastrnn.SGD(0.1, momentum=0.9, nesterov=True, weight_decay=0.1),
            fastrnn.RMSprop(), fastrnn.RMSprop(momentum=0.9, centered=True, weight_decay=0.1),
            fastrnn.Adagrad(), fastrnn.Adam(amsgrad=True), fastrnn.AdamW(),
        ):  # fmt: skip
            model = fastrnn.Linear(inputs, outputs, dtype=dtype, seed=1)
            for _ in range(2):
                model.parameters.gradients[:] = normal(numbers, model.num_parameters, dtype)
                results.append(fastrnn.clip_gradients(model, 1.0, 0.3))
                fastrnn.clip_grad_value(model, 0.2)
                optimizer.step(model)
            results += [model.gradients_to_vector(), model.parameters_to_vector()]
        return results

    return f"optimisers, {dtype}, {inputs} by {outputs} parameters, seed={seed}", run


def draw_trainer(rng, wide):
    """A language model trained for some updates, evaluated, and stepped."""
    tokens, units, classes = bool(rng.integers(2)), sizes.features(rng, "float32"), sizes.features(rng, "float32")
    steps, batch = sizes.batch(rng)
    lengths = sizes.maybe(rng, lambda: sizes.lengths(rng, steps, batch))
    chunk, seed = int(rng.choice([2, 5, 16])), int(rng.integers(1 << 30))
    kind = [fastrnn.LSTM, fastrnn.GRU, fastrnn.RNN][rng.integers(3)]

    def run():
        numbers = np.random.default_rng(seed)
        first = [] if tokens else [fastrnn.Embedding(classes, units, seed=1)]
        layer = kind(classes if tokens else units, units, 2, dropout=0.2, seed=2)
        model = fastrnn.Sequential(*first, layer, fastrnn.Linear(units, classes, seed=3))
        x, targets = (numbers.integers(0, classes, (steps, batch)) for _ in range(2))
        results = []
        for rule in (fastrnn.bptt.Full(), fastrnn.bptt.Truncated(chunk)):
            optimizer = fastrnn.Adam(0.01)
            trainer = fastrnn.Trainer(model, fastrnn.CrossEntropy(), optimizer, bptt=rule, clip_norm=1.0)
            results += [trainer.step(x, targets, lengths=lengths)[0] for _ in range(2)]
            results += [trainer.evaluate([(x, targets)]), model.parameters_to_vector()]
        return [*results, model.step(x[0])[0]]

    what = f"trainer, {kind.__name__}, {units} units, {classes} classes, T={steps}, B={batch}, tokens={tokens}"
    return f"{what}, Truncated({chunk}), lengths={told(lengths)}, seed={seed}", run
