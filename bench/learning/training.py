"""What the tasks on fresh random sequences share."""


def train(trainer, batch, updates, measure, every):
    """Train on `updates` batches, each from a call of `batch`, as arguments of `Trainer.step` by name.

    Returns the learning curve: pairs of updates done and `measure()`, after every `every` updates and at the end.
    """
    curve = []
    for done in range(1, updates + 1):
        trainer.step(**batch())
        if done % every == 0 or done == updates:
            curve.append((done, measure()))
    return curve
