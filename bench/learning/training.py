"""What the tasks on fresh random sequences share."""

DECAY = 0.3


def decay_at_the_end(updates):
    """A schedule for so many updates: 1, but down to 0 along a line over the last of them, a share of `DECAY`."""
    return lambda step: min(1.0, (updates - step) / (DECAY * updates))


def train(trainer, batch, updates, measure, every, enough=None):
    """Train on `updates` batches, each from a call of `batch`, as arguments of `Trainer.step` by name.

    Returns the learning curve: pairs of updates done and `measure()`, after every `every` updates and at the end.
    enough: a measure below it ends the training.
    """
    curve = []
    for done in range(1, updates + 1):
        trainer.step(**batch())
        if done % every == 0 or done == updates:
            curve.append((done, measure()))
            if enough is not None and curve[-1][1] < enough:
                break
    return curve
