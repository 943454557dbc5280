import numpy as np
import pytest
import torch

from hedgecast.core.errors import DataError, DependencyError, ShapeError
from hedgecast.data.features import features
from hedgecast.diffusion.noise import day_numbers, scenario_noise
from hedgecast.registry.bundle import Manifest
from hedgecast.registry.session import ContextReader, ScenarioSession, context_of
from hedgecast.rpc.codec import EMPTY_ROWS, NamedRows
from hedgecast.testing import TinyModel


@pytest.fixture(scope="module")
def session(trained: TinyModel) -> ScenarioSession:
    return ScenarioSession(trained.bundle)


def test_served_scenarios_are_the_torch_ones(trained: TinyModel, session: ScenarioSession) -> None:
    context = features(trained.split.test)
    numbers = day_numbers(trained.split.test.days)
    found = session.draw(context, numbers, 40, seed=7)
    noise = torch.from_numpy(scenario_noise(7, numbers, 40, trained.generator.dim))
    with torch.no_grad():
        expected = trained.generator.sample(torch.from_numpy(context), noise).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_the_first_of_many_are_the_few(session: ScenarioSession, trained: TinyModel) -> None:
    context = features(trained.split.test)[:3]
    numbers = day_numbers(trained.split.test.days)[:3]
    many = session.draw(context, numbers, 5000, seed=1)
    few = session.draw(context[1:2], numbers[1:2], 10, seed=1)
    np.testing.assert_allclose(many[1, :10], few[0], rtol=2e-6)
    later = session.draw(context[1:2], numbers[1:2], 5, seed=1, start=4100)
    np.testing.assert_allclose(many[1, 4100:4105], later[0], rtol=2e-6)


def test_rows_give_the_scenarios_of_the_day(trained: TinyModel, session: ScenarioSession) -> None:
    table = {
        "load_gw": trained.split.test.history[5, :, 0],
        "holiday": trained.split.test.history[5, :, 1],
    }
    times, _ = trained.split.test.steps_of(5)
    hour = np.timedelta64(1, "h")
    history = NamedRows(times=times[0] + hour * np.arange(-168, 0), columns=table)
    known = NamedRows(times=times, columns={"holiday": trained.split.test.known[5, :, 0]})
    scenarios = session.scenarios(history, known, 20, seed=3)
    context = context_of(trained.split.test, 5)
    (paths,) = session.draw(context.features[None], [context.day_number], 20, seed=3)
    assert scenarios.paths.shape == (1, 20, 24, 1)
    assert scenarios.times is not None
    np.testing.assert_array_equal(scenarios.times[0], times)
    np.testing.assert_array_equal(scenarios.paths[0].numpy(), paths.astype(np.float64))


def test_the_manifest_is_not_hashed_for_every_answer(
    trained: TinyModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = ContextReader(trained.bundle)
    source = f"tiny:{trained.bundle.manifest.fingerprint[:12]}"

    def refused(_manifest: Manifest) -> str:
        raise AssertionError("the fingerprint was worked out again")

    monkeypatch.setattr(Manifest, "fingerprint", property(refused))
    context = context_of(trained.split.test, 0)
    paths = np.zeros((2, trained.generator.num_steps, 1), dtype=np.float32)
    assert reader.scenario_set(context, paths, 0).source == source


def test_rows_that_make_no_context_are_refused(session: ScenarioSession) -> None:
    with pytest.raises(DataError):
        session.scenarios(EMPTY_ROWS, EMPTY_ROWS, 10, seed=0)


def test_contexts_of_another_width_are_refused(session: ScenarioSession) -> None:
    with pytest.raises(ShapeError, match=r"must be \(contexts, "):
        session.draw(np.zeros((1, 3)), [0], 10, seed=0)


MISSING = "CUDAExecutionProvider"


@pytest.mark.filterwarnings("ignore:Specified provider:UserWarning")
@pytest.mark.parametrize(
    "providers", [(MISSING, "CPUExecutionProvider"), ("CPUExecutionProvider", MISSING), (MISSING,)]
)
def test_a_provider_that_does_not_run_is_an_error(trained: TinyModel, providers: tuple[str, ...]) -> None:
    with pytest.raises(DependencyError, match=f"without {MISSING}") as caught:
        ScenarioSession(trained.bundle, providers=providers)
    assert caught.value.facts["asked"] == list(providers)


@pytest.mark.filterwarnings("ignore:Specified provider:UserWarning")
def test_a_fallback_that_is_allowed_is_told(
    trained: TinyModel, session: ScenarioSession, caplog: pytest.LogCaptureFixture
) -> None:
    found = ScenarioSession(trained.bundle, providers=("CPUExecutionProvider", MISSING), allow_fallback=True)
    assert found.missing_providers == (MISSING,)
    assert f"without {MISSING}" in caplog.text
    assert session.missing_providers == ()
    context = features(trained.split.test)[:1]
    np.testing.assert_array_equal(found.draw(context, [0], 5, seed=1), session.draw(context, [0], 5, seed=1))
