"""Rules of backpropagation through time: how far back the gradient goes, and how often the parameters move.

A rule is usable alone, `value, state = rule.gradients(model, loss, x, targets)`, and as the engine of a `Trainer`.

| rule | horizon of the gradient | updates a batch |
| --- | --- | --- |
| `Full()` | the whole sequence | 1 |
| `Truncated(k)` | chunks of k steps | 1 a chunk |
| `Windowed(k2, k1)` | each loss reaches at least k2 − k1 + 1, at most k2 steps | 1 |
| `Online()` | 1 step | 1 a step |
| `Growing(start, stop, ...)` | chunks that grow as training goes on | 1 a chunk |
| `Randomized(p, seed)` | random chunks, reweighted: unbiased | 1 |
| `Checkpointed(segments)` | the whole sequence, in memory of its square root | 1 |
| `Feedback(teacher, ...)` | the whole sequence, through outputs that are fed back as inputs | 1 |
"""

from ..model import layers_of
from .base import Buffers, Rule, Run, check_loss, map_state, random_states, set_random_states
from .checkpointed import Checkpointed
from .chunks import Full, Growing, Online, Randomized, Truncated
from .feedback import Feedback, InverseSigmoidDecay, LinearDecay
from .windowed import Windowed

__all__ = [
    "Buffers",
    "Checkpointed",
    "Feedback",
    "Full",
    "Growing",
    "InverseSigmoidDecay",
    "LinearDecay",
    "Online",
    "Randomized",
    "Rule",
    "Run",
    "Truncated",
    "Windowed",
    "check_loss",
    "layers_of",
    "map_state",
    "random_states",
    "set_random_states",
]
