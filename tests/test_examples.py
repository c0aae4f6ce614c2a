"""The worked examples, shortened."""

import importlib.util
import pathlib
import sys
import wave

import numpy as np
import pytest

EXAMPLES = pathlib.Path(__file__).parent.parent / "examples"


def example(name):
    """The example as a module."""
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)  # where Numba's cache looks for it
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def picture(tmp_path):
    """A path that the example under test is to fill with a picture."""
    pytest.importorskip("matplotlib")
    path = tmp_path / "picture.png"
    yield path
    assert path.read_bytes().startswith(b"\x89PNG")


def test_encoder_decoder_learns(capsys, picture):
    assert example("encoder_decoder").main(["--updates", "800", "--plot", str(picture)]) > 0.8
    assert "800 updates" in capsys.readouterr().out


@pytest.mark.parametrize("which", [0, 1], ids=["encoder", "decoder"])
def test_encoder_decoder_gradient_is_the_slope(which):
    """Along random directions of all parameters, in float64."""
    module = example("encoder_decoder")
    models = module.build(units=6, embedding=3, dtype="float64")
    trainer = module.ReversalTrainer(*models, batch=5)
    batch, rng = module.draw(5, np.random.default_rng(0)), np.random.default_rng(1)
    trainer.add_gradients(*batch)
    model, gradient = models[which], models[which].gradients_to_vector()
    start = model.parameters_to_vector()
    for _ in range(5):
        direction, values = rng.standard_normal(start.size), []
        for side in (-1e-5, 1e-5):
            model.vector_to_parameters(start + side * direction)
            values.append(trainer.add_gradients(*batch))
        np.testing.assert_allclose(gradient @ direction, (values[1] - values[0]) / 2e-5, rtol=1e-6)


def test_encoder_decoder_decodes_as_it_was_trained():
    """Given the symbols it writes itself, the decoder's outputs are those of one forward pass over them."""
    module = example("encoder_decoder")
    encoder, decoder = module.build(units=8)
    source, lengths, _, _ = module.draw(20, np.random.default_rng(2))
    written = module.decode(encoder, decoder, source, lengths)
    _, (_, final) = encoder.forward(source, lengths=lengths)
    for b, symbols in enumerate(written):
        given = np.array([module.START, *symbols])[:, np.newaxis]
        state = tuple(part[:, b : b + 1] for part in final)
        chosen = decoder.forward(given, (None, state, None))[0].argmax(-1)[:, 0].tolist()
        assert chosen[: module.LONGEST + 1] == [*symbols, module.END][: module.LONGEST + 1] or len(symbols) > 8


def test_evolve_policy(capsys, picture):
    arguments = ["--generations", "25", "--seconds", "0.01", "--plot", str(picture)]
    assert example("evolve_policy").main(arguments) > 400
    assert "million steps a second" in capsys.readouterr().out


def test_evolve_policy_plays_as_the_layers_do():
    module = example("evolve_policy")
    policy, rng = module.make_policy(1), np.random.default_rng(1)
    starts = module.draw_starts(5, rng)
    population = np.stack([policy.parameters_to_vector() * scale for scale in (1.0, 3.0)])
    durations = module.Simulator(policy, 2).durations(population, starts, limit=100)
    for parameters, row in zip(population, durations, strict=True):
        policy.vector_to_parameters(parameters)
        assert row.tolist() == [len(module.record(policy, start, 101)) - 1 for start in starts]


def test_lbfgs(capsys, picture):
    pytest.importorskip("scipy.optimize")
    errors = example("lbfgs").main(["--plot", str(picture)])
    assert errors["trained"] < errors["before training"] / 50
    assert errors["second half"] < errors["second half, last value as the prediction"] / 5
    assert "iterations" in capsys.readouterr().out


def test_lbfgs_says_what_it_needs(monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy.optimize", None)
    with pytest.raises(SystemExit, match="SciPy: pip install scipy"):
        example("lbfgs").main([])


def test_hidden_states_has_a_unit_that_counts(capsys, picture):
    assert example("hidden_states").main(["--updates", "400", "--plot", str(picture)]) > 0.9
    assert "counts" in capsys.readouterr().out


def test_hidden_states_counts_are_those_of_the_brackets():
    module = example("hidden_states")
    x, counts = module.draw(30, 5, np.random.default_rng(0))
    for tokens, expected in zip(x.T, counts[..., 0].T, strict=True):
        text = "".join(module.SYMBOLS[token] for token in tokens)
        found = [text[: n + 1].count("(") - text[: n + 1].count(")") for n in range(len(text))]
        assert found == expected.tolist() and min(found) >= 0


def test_audio_effect(tmp_path, capsys, picture):
    module = example("audio_effect")
    sizes = ["--seconds", "4", "--epochs", "25", "--units", "8", "--held-out", "0.5"]
    found = module.main([*sizes, "--plot", str(picture), "--wav", str(tmp_path / "wav")])
    assert found["after"] < found["before"] / 2
    assert found["real time"]["fastrnn"].keys() == set(module.BLOCKS)
    assert found["real time"]["fastrnn"][512][0] < 1
    with wave.open(str(tmp_path / "wav" / "output.wav")) as file:
        assert (file.getnframes(), file.getframerate(), file.getsampwidth()) == (22_050, 44_100, 2)
    assert "error-to-signal ratio" in capsys.readouterr().out


@pytest.mark.parametrize("block", [1, 50, 128, 999, 2000])
def test_audio_effect_blocks_are_one_pass(block):
    module = example("audio_effect")
    model, signal = module.build(), module.guitar(0.045, seed=3)
    whole, _ = model.forward(signal[:, None, None])
    output, seconds = module.play(module.fastrnn_effect(model), signal, block)
    np.testing.assert_array_equal(output, whole[:, 0, 0])
    assert len(seconds) == -(-len(signal) // block)


def test_audio_effect_in_torch_is_the_same():
    pytest.importorskip("torch")
    module = example("audio_effect")
    model, signal = module.build(), module.guitar(0.1, seed=3)
    ours, theirs = (module.play(make(model), signal, 64)[0] for make in (module.fastrnn_effect, module.torch_effect))
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


def test_audio_effect_string_has_its_pitch():
    """Nothing is left between the harmonics of a plucked string, and the overdrive makes it no louder than ±1."""
    module = example("audio_effect")
    note = module.pluck(441.0, 1.0, np.random.default_rng(0))[:44_100]
    spectrum = np.abs(np.fft.rfft(note * np.hanning(note.size)))
    peaks = [
        spectrum[441 * k - 15 : 441 * k + 16].max() for k in (1, 2, 3)
    ]  # half a sample of delay lowers it a little
    between = [spectrum[441 * k + 180 : 441 * k + 260].max() for k in (1, 2, 3)]
    assert min(peaks) > 100 * max(between)
    assert np.abs(module.overdrive(module.guitar(2.0, seed=0))).max() <= 1


def test_direction_is_told_where_it_can_be(capsys, picture):
    told = example("direction").main(["--steps", "2000", "--epochs", "10", "--plot", str(picture)])
    swing, walk = told["oscillator"], told["random walk"]
    assert swing["net"] > 0.75 and swing["majority"] < 0.6 and abs(walk["net"] - 0.5) < 0.08
    assert "directions told (± 2.1 %)" in capsys.readouterr().out


def test_dates(capsys, picture):
    options = ["--updates", "40", "--units", "16", "--batch", "16", "--plot", str(picture)]
    assert example("dates").main(options) < 0.5
    assert "the 3rd of March 1994 → " in capsys.readouterr().out


def test_dates_are_spelt_as_their_example():
    module = example("dates")
    date = module.datetime.date(1994, 3, 3)
    assert all(spell(date) == shown for shown, spell in module.SPELLINGS.items())
    assert [module.ordinal(n) for n in (1, 2, 11, 23)] == ["1st", "2nd", "11th", "23rd"]
    longest = max(len(spell(module.datetime.date(2049, 9, 22))) for spell in module.SPELLINGS.values())
    assert longest <= module.LONGEST and not set(module.HELD_OUT) & set(module.TRAINING)


def test_dates_are_learnt_by_heart():
    module = example("dates")
    reader = module.Reader(32, 8, 150, lr=1e-2)
    dates = module.draw_dates(8, module.TRAINING, np.random.default_rng(0))
    texts, iso = [module.SPELLINGS["3 March 1994"](date) for date in dates], [date.isoformat() for date in dates]
    for _ in range(150):
        reader.update(texts, iso)
    assert reader.read(texts) == iso
