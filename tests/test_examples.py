"""The worked examples, shortened."""

import importlib.util
import pathlib
import sys

import numpy as np
import pytest

EXAMPLES = pathlib.Path(__file__).parent.parent / "examples"


def example(name):
    """The example as a module."""
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_encoder_decoder_learns(capsys):
    assert example("encoder_decoder").main(["--updates", "800"]) > 0.8
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


def test_lbfgs(capsys):
    pytest.importorskip("scipy.optimize")
    errors = example("lbfgs").main()
    assert errors["trained"] < errors["before training"] / 50
    assert errors["second half"] < errors["second half, last value as the prediction"] / 5
    assert "iterations" in capsys.readouterr().out


def test_lbfgs_says_what_it_needs(monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy.optimize", None)
    with pytest.raises(SystemExit, match="SciPy: pip install scipy"):
        example("lbfgs").main()


def test_direction_is_told_where_it_can_be(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    told = example("direction").main(["--steps", "2000", "--epochs", "10", "--plot", str(tmp_path / "direction.png")])
    swing, walk = told["oscillator"], told["random walk"]
    assert swing["net"] > 0.75 and swing["majority"] < 0.6 and abs(walk["net"] - 0.5) < 0.08
    assert (tmp_path / "direction.png").read_bytes().startswith(b"\x89PNG")
    assert "directions told (± 2.1 %)" in capsys.readouterr().out


def test_dates(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    options = ["--updates", "40", "--units", "16", "--batch", "16", "--plot", str(tmp_path / "dates.png")]
    assert example("dates").main(options) < 0.5
    assert (tmp_path / "dates.png").read_bytes().startswith(b"\x89PNG")
    assert "the 3rd of March 1994 → " in capsys.readouterr().out


def test_dates_are_spelt_as_their_example():
    module = example("dates")
    date = module.datetime.date(1994, 3, 3)
    assert all(spell(date) == shown for shown, spell in module.SPELLINGS.items())
    assert module.MONTHS[0] == "January" and [module.ordinal(n) for n in (1, 2, 11, 23)] == [
        "1st",
        "2nd",
        "11th",
        "23rd",
    ]
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
