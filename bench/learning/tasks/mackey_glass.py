"""Mackey-Glass series, forecast by the protocol of NeuroBench."""

import statistics

import numpy as np

import fastrnn

TITLE = "Mackey-Glass series, τ = 17"
SETUP = """\
The protocol of NeuroBench's `examples/mackey_glass/lstm_benchmark.py` (github.com/NeuroBench/neurobench; Yik et al.,
The NeuroBench framework for benchmarking neuromorphic computing algorithms and systems, Nature Communications 2025): x′
= 0.2·x(t−17)/(1 + x(t−17)¹⁰) − 0.1·x(t) from a constant past of 0.7206597, 75 points in a Lyapunov time of 197; 10
Lyapunov times to train on and the next 10 to forecast with the forecasts fed back, from the state that the training
part leaves. 30 repeats, each with the seed of its number and starting half a Lyapunov time after the one before; the
mean of their sMAPE counts (±: its standard error). One net is the script's: LSTM 40 of the layer-normalised window of
the 50 last points, ReLU, linear, float64, Adam (lr 0.005, weight decay 0.001), 200 updates on the whole part. Ours is
the same without layer normalisation and weight decay, of the standardised series, with 800 updates and a cosine
schedule, chosen on stretches that begin later in the series.

What differs from the script: its series is a file to download, ours is integrated here (method of steps, fourth order,
step 1/75) and begins at t = 17. In chaos that makes it another stretch of the same attractor."""
GOAL = "mean sMAPE at most 15"
PUBLISHED = """\
LSTM 13.37 and echo state network 14.79 (NeuroBench's `leaderboard.rst`), LSTM 14.35 (a comment at the script's end)."""
SEEDS = tuple(range(30))  # the repeats

_DELAY, _FEEDBACK, _DECAY, _PAST = 17, 0.2, 0.1, 0.7206597
_STEPS_PER_UNIT = 75  # of integration, a unit of time: both the delay and the sampling interval are whole steps
_STEPS_PER_POINT = 197  # Lyapunov time 197, of 75 points
_POINTS_PER_LYAPUNOV_TIME = 75
_PART = 10 * _POINTS_PER_LYAPUNOV_TIME  # points to train on, and to forecast
_WINDOW, _HIDDEN, _LR = 50, 40, 5e-3
_LIMIT = 15.0
_PLOTTED = 3  # the first repeats, whose forecasts are kept


def _feedback(x):
    return _FEEDBACK * x / (1 + x**10)


def trajectory(delays, steps=_STEPS_PER_UNIT):
    """x at t = 0, h, 2h, … to `delays` times the delay, with h = 1/steps.

    Method of steps: over one delay the fed-back f(s) = 0.2·x(s-17)/(1 + x(s-17)¹⁰) is known, so that the equation is
    linear there, and x(t) = e^(-0.1·t)·(x(0) + ∫ e^(0.1·s)·f(s) ds). Simpson's rule, whose midpoints come from x and x'
    by Hermite interpolation, makes it of fourth order.
    """
    h, n = 1 / steps, _DELAY * steps
    growth = np.exp(_DECAY * h / 2 * np.arange(2 * n + 1))  # at every half step
    x, slope = np.full(n + 1, _PAST), np.zeros(n + 1)
    pieces = [x[-1:]]
    for _ in range(delays):
        middle = (x[:-1] + x[1:]) / 2 + h / 8 * (slope[:-1] - slope[1:])
        fed_back = _feedback(x)
        ends, middles = growth[::2] * fed_back, growth[1::2] * _feedback(middle)
        integral = np.cumsum(h / 6 * (ends[:-1] + 4 * middles + ends[1:]))
        x = (x[-1] + np.concatenate(([0.0], integral))) / growth[::2]
        slope = fed_back - _DECAY * x
        pieces.append(x[1:])
    return np.concatenate(pieces)


def series(offset):
    """The points of one repeat, (1501,): to train on, to forecast, and one more as the last target."""
    points = offset + 2 * _PART + 1
    first = _DELAY * _STEPS_PER_UNIT  # where x' has become continuous
    delays = -(-(first + points * _STEPS_PER_POINT) // first)
    return trajectory(delays)[first::_STEPS_PER_POINT][offset:points]


def smape(forecast, truth):
    """Symmetric mean absolute percentage error, from 0 to 200, which a diverged forecast has."""
    error = 200 * np.mean(np.abs(forecast - truth) / (np.abs(forecast) + np.abs(truth)))
    return 200.0 if np.isnan(error) else float(error)


def layer_normalised(windows):
    """Over the last axis, before gain and bias."""
    centred = windows - windows.mean(-1, keepdims=True)
    return centred / np.sqrt(np.mean(centred**2, -1, keepdims=True) + 1e-5)


def _forecast(x, model, train, prepare=np.asarray):
    """Train on the first part of a repeat, `train(inputs, targets)`, then forecast the second: (750,).

    prepare: windows (..., 50) -> inputs. The first input of the forecast is a true window, which then takes in every
    output.
    """
    padded = np.concatenate((np.zeros(_WINDOW - 1), x))
    windows = np.lib.stride_tricks.sliding_window_view(padded, _WINDOW)  # windows[i] ends in x[i]
    inputs = prepare(windows[:_PART])[:, None]
    train(inputs, x[1 : _PART + 1, None, None])
    _, state = model.forward(inputs)
    window, outputs = windows[_PART], np.empty(_PART)
    for i in range(_PART):
        y, state = model.step(prepare(window)[None], state)
        outputs[i] = y[0, 0]
        window = np.append(window[1:], y)
    return outputs


def _network(seeds):
    """LSTM, ReLU, linear."""
    return (
        fastrnn.LSTM(_WINDOW, _HIDDEN, dtype="float64", seed=next(seeds)),
        fastrnn.ReLU(),
        fastrnn.Linear(_HIDDEN, 1, dtype="float64", seed=next(seeds)),
    )


def script_model(seeds):
    """The script's network; its layer normalisation's gain and bias are a linear layer that has to be kept diagonal."""
    scale = fastrnn.Linear(_WINDOW, _WINDOW, dtype="float64", seed=next(seeds))
    model = fastrnn.Sequential(scale, *_network(seeds))
    model.load_state_dict(model.state_dict() | {"0.weight": np.eye(_WINDOW), "0.bias": np.zeros(_WINDOW)})
    return model


def forecast_by_script(x, model, updates):
    """The forecast (750,) of a repeat's second part by the script's settings."""
    trainer = fastrnn.Trainer(model, fastrnn.MSE(), fastrnn.Adam(_LR, weight_decay=1e-3))

    def train(inputs, targets):
        for _ in range(updates):
            trainer.step(inputs, targets)
            weights = model.state_dict()  # Adam treats every weight alone: the diagonal knows nothing of the rest
            weights["0.weight"] *= np.eye(_WINDOW)
            model.load_state_dict(weights)

    return _forecast(x, model, train, layer_normalised)


def _forecast_by_ours(x, seeds, updates):
    model = fastrnn.Sequential(*_network(seeds))
    trainer = fastrnn.Trainer(model, fastrnn.MSE(), fastrnn.Adam(_LR), schedule=fastrnn.Cosine(updates))

    def train(inputs, targets):
        for _ in range(updates):
            trainer.step(inputs, targets)

    mean, deviation = x[:_PART].mean(), x[:_PART].std()
    return mean + deviation * _forecast((x - mean) / deviation, model, train)


def run(seed, quick=False):
    """One repeat, with either net."""
    fastrnn.set_num_threads(1)
    x = series(seed * _POINTS_PER_LYAPUNOV_TIME // 2)
    seeds = iter(np.random.SeedSequence(seed).generate_state(5).tolist())
    script = forecast_by_script(x, script_model(seeds), 2 if quick else 200)
    ours = _forecast_by_ours(x, seeds, 2 if quick else 800)
    truth = x[_PART + 1 :]
    scores = {"smape": smape(ours, truth), "script": smape(script, truth)}
    if seed >= _PLOTTED:
        return scores
    return scores | {"forecast": ours.round(4).tolist(), "truth": truth.round(4).tolist()}


def summarise(results):
    scores, script = ([result[name] for result in results] for name in ("smape", "script"))
    rows = [("mean sMAPE", _mean(scores)), ("mean sMAPE by the script's settings", _mean(script))]
    rows += [("sMAPE of each repeat", _listed(scores)), ("by the script's settings", _listed(script))]
    return rows, statistics.fmean(scores) <= _LIMIT


def _mean(scores):
    error = f" ± {statistics.stdev(scores) / len(scores) ** 0.5:.2f}" if len(scores) > 1 else ""
    return f"{statistics.fmean(scores):.2f}{error}"


def _listed(scores):
    return ", ".join(f"{score:.1f}" for score in scores)


def draw(results, path):
    """The forecasts of the first repeats."""
    import matplotlib.pyplot as plt

    kept = [result for result in results if "forecast" in result]
    figure, panels = plt.subplots(len(kept), sharex=True, squeeze=False, figsize=(8, 6), layout="constrained")
    panels = panels[:, 0]
    for panel, result in zip(panels, kept, strict=True):
        times = np.arange(len(result["truth"])) / _POINTS_PER_LYAPUNOV_TIME
        panel.plot(times, result["truth"], color="0.6", label="Mackey-Glass")
        panel.plot(times, result["forecast"], label="LSTM, free-running")
        panel.set_title(f"repeat {result['seed']}: sMAPE {result['smape']:.1f}")
    panels[0].legend(loc="upper right")
    panels[-1].set_xlabel("Lyapunov times")
    figure.savefig(path, dpi=100)
    plt.close(figure)
