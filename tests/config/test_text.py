"""The config as text: one line per field with what its declaration says."""

from pldmlt_jax.config import Config, fields
from pldmlt_jax.config.text import config_lines, config_text


def test_lines_have_value_meaning_and_allowed_values():
    lines = config_lines(Config())
    assert len(lines) == len(list(fields(Config())))
    assert all(line.startswith("  ") and "  # " in line for line in lines)
    expected = (
        "  data.size_px = 1024  # Side of the square image that the multi-task network sees. [32 to 8192 px]",
        "  model.encoder = 'vgg16'  # Encoder. [a key of ENCODERS]",
        "  data.fov_crop = True  # Crop to the field of view first.",
    )
    assert set(expected) <= set(lines)
    assert any(line.endswith("[constant, cosine]") for line in lines)


def test_what_differs_from_the_default_is_marked_with_it():
    config = Config()
    config.loss.beta, config.meta.hidden = 0.5, (8, 4)
    marked = [line for line in config_lines(config) if line.startswith("*")]
    assert [line.split("  #")[0] for line in marked] == ["* loss.beta = 0.5", "* meta.hidden = (8, 4)"]
    assert marked[0].endswith("(default: 0.8)")
    assert config_text(config).count("\n    ") == len(config_lines(config)) - 1
