"""Settings: read back as written, refused by name."""

import pytest

from glossator.config import RunConfig, load_config, save_config
from glossator.errors import InputError


def test_a_saved_config_reads_back_equal(tmp_path):
    config = RunConfig.model_validate(
        {"corpus": {"source": ["a.txt", "b.jsonl"], "tokens": 5}, "explain": {"latents": [3, 1]}}
    )
    save_config(config, tmp_path / "config.toml")
    assert load_config(tmp_path / "config.toml") == config


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[corpus]\ntoken = 3", r"field `corpus\.token`"),
        ("[corpus]\ntokens = -1", r"field `corpus\.tokens`"),
        ("[corpus]\ncontext_length = 100", r"field `corpus\.context_length`.*multiple of 32"),
        ("[coder]\nlatents = 8\nk = 8", r"coder\.k: must be smaller"),
        ("[index]\nlossless = 'perhaps'", r"field `index\.lossless`"),
        ("seed = -1", "field `seed`"),
        ("seed = ", "not TOML"),
    ],
)
def test_a_bad_field_is_named_with_its_file_in_one_line(tmp_path, text, message):
    path = tmp_path / "bad.toml"
    path.write_text(text)
    with pytest.raises(InputError, match=message) as info:
        load_config(path)
    assert str(info.value).startswith(str(path))
    assert "\n" not in str(info.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"none\.toml: cannot be read"):
        load_config(tmp_path / "none.toml")


def test_only_the_data_part_makes_another_run():
    one = RunConfig()
    two = RunConfig.model_validate({"judge": {"url": "local"}})
    three = RunConfig.model_validate({"coder": {"k": 16}})
    four = RunConfig.model_validate({"index": {"lossless": True}})
    assert one.data() == two.data()
    assert one.data() not in (three.data(), four.data())
