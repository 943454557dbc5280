import pytest

from hedgecast.core.errors import ConfigError
from hedgecast.programs.risk import Risk


@pytest.mark.parametrize(
    ("text", "risk"),
    [
        ("expectation", Risk()),
        ("worst", Risk(beta=1.0, alpha=1.0)),
        ("cvar:0.95", Risk(beta=1.0, alpha=0.95)),
        ("regret-cvar:0.9", Risk(beta=1.0, alpha=0.9, on_regret=True)),
        ("regret-worst", Risk(beta=1.0, alpha=1.0, on_regret=True)),
        ("mixture:0.5:0.9", Risk(beta=0.5, alpha=0.9)),
    ],
)
def test_a_measure_reads_back(text: str, risk: Risk) -> None:
    assert Risk.parse(text) == risk
    assert Risk.parse(str(risk)) == risk


@pytest.mark.parametrize("text", ["", "cvar", "cvar:x", "mean", "cvar:0.9:0.1", "regret-"])
def test_another_form_is_refused_with_the_forms_that_work(text: str) -> None:
    with pytest.raises(ConfigError, match="use expectation, worst, cvar:ALPHA"):
        Risk.parse(text)


@pytest.mark.parametrize("text", ["cvar:1.5", "mixture:2:0.5"])
def test_a_level_outside_its_range_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"must lie in \[0, 1\]"):
        Risk.parse(text)


def test_the_expectation_is_neutral() -> None:
    assert Risk().neutral
    assert Risk(beta=1.0, alpha=0.0).neutral
