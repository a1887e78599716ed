"""Options in groups: every one is read into its field, and what cannot be read is one line."""

import pytest

from glossator.cli_settings import DATA, EXPLAIN, JUDGE, KEPT, SCORE, WHAT, settings
from glossator.config import RunConfig
from glossator.errors import InputError


def test_every_option_is_a_field_of_the_settings():
    fields = RunConfig.model_fields
    for name in [*DATA, *KEPT, *WHAT, *JUDGE, *EXPLAIN, *SCORE]:
        section, _, field = name.partition("__")
        inner = fields["explain"].annotation if section == "explain_judge" else None
        section = "judge" if inner else section
        assert section in (inner.model_fields if inner else fields), name
        if field:
            kind = (inner.model_fields if inner else fields)[section].annotation
            assert field in kind.model_fields, name


def test_explainers_carry_their_settings():
    config = settings(
        RunConfig(),
        {
            "explain__explainers": [
                "rules",
                "delimited:threshold=0.6,max_tokens=90",
                "file:path=a b",
            ]
        },
    )
    assert config.explain.explainers == ("rules", "delimited", "file")
    assert config.explain.settings == {
        "delimited": {"threshold": 0.6, "max_tokens": 90},
        "file": {"path": "a b"},
    }
    again = settings(config, {"explain__explainers": ["delimited:threshold=0.5"]})
    assert again.explain.settings["delimited"] == {"threshold": 0.5, "max_tokens": 90}


def test_engines_and_bodies_take_any_key():
    config = settings(
        RunConfig(),
        {
            "judge__url": ["vllm:some/model"],
            "judge__engine": ["tensor_parallel_size=4", "dtype=bfloat16"],
            "judge__extra": '{"top_k": 1}',
            "explain_judge__url": ["http://a/v1", "http://b/v1"],
            "explain__latents": "3,5-6",
        },
    )
    assert config.judge.in_process == "some/model"
    assert config.judge.engine == {"tensor_parallel_size": 4, "dtype": "bfloat16"}
    assert config.judge.extra == {"top_k": 1}
    assert config.explain.judge.url == ("http://a/v1", "http://b/v1")
    assert config.explain.latents == (3, 5, 6)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"judge__extra": "{"}, "--judge-extra: not JSON"),
        ({"judge__extra": "[1]"}, "is no JSON object"),
        ({"judge__engine": ["tensor_parallel_size"]}, "--engine: .* is no KEY=VALUE"),
        ({"explain__explainers": ["delimited:threshold"]}, "--explainer delimited: "),
        ({"judge__url": ["http://u:p@h/v1"]}, "GLOSSATOR_JUDGE_API_KEY"),
        ({"judge__url": ["local", "http://h/v1"]}, "`local` stands alone"),
    ],
)
def test_what_cannot_be_read_is_named(options, says):
    with pytest.raises(InputError, match=says):
        settings(RunConfig(), options)


def test_one_url_needs_no_brackets_and_none_is_none():
    assert RunConfig.model_validate({"judge": {"url": "local"}}).judge.is_local
    assert RunConfig.model_validate({"judge": {"url": None}}).judge.url == ()
