"""What `serve deploy` builds: closed arguments, and a config that Serve takes."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from ray.serve.schema import ServeDeploySchema

from hedgecast.core import errors
from hedgecast.service.settings import load_settings
from hedgecast_workers.application import ApplicationArgs, build
from hedgecast_workers.deployments import Component, Replicas, deployment_options
from hedgecast_workers.serve_config import check_serve_config, serve_config

REPLICAS: dict[Component, Replicas] = {
    "Denoiser": Replicas(count=2, most=6, target_requests=2.0, num_gpus=0.5, resource="hedgecast_denoiser"),
    "Solver": Replicas(count=3, resource="hedgecast_solver"),
    "Gateway": Replicas(count=2, resource="hedgecast_gateway"),
}


def _config() -> dict[str, Any]:
    settings = load_settings(max_concurrent_requests=7, drain_seconds=3.0)
    return serve_config(ApplicationArgs(model="tiny@champion"), settings, REPLICAS)


def _denoiser(config: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = config["applications"][0]["deployments"][0]
    return found


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "either model"),
        ({"model": "tiny", "bundle": "/b"}, "either model"),
        ({"model": "tiny", "modle": "tiny"}, "modle"),
        ({"model": "tiny", "threads": 0}, "threads"),
        ({"model": 3}, "model"),
    ],
)
def test_arguments_are_closed_and_typed(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        ApplicationArgs.model_validate(values)


def test_more_replicas_at_least_than_at_most_are_refused() -> None:
    with pytest.raises(ValidationError, match="most = 2 is less than count = 3"):
        Replicas(count=3, most=2)


def test_solvers_that_would_never_be_more_are_refused() -> None:
    solvers = Replicas(most=4, target_requests=2.0)
    with pytest.raises(errors.ConfigError, match=r"scaled by 2 .*from 2 on: set HEDGECAST_SOLVER_CALLS"):
        deployment_options(load_settings(), {"Solver": solvers})
    assert "Solver" in deployment_options(load_settings(solver_calls=3), {"Solver": solvers})


def test_secrets_in_the_environment_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HEDGECAST_TOKENS", "planner " + "0" * 64)
    with pytest.raises(errors.ConfigError, match="HEDGECAST_TOKEN_FILE"):
        build(ApplicationArgs(bundle=tmp_path))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda c: c.update(proxy_place="Disabled"), "proxy_place: no such key"),
        (
            lambda c: c["applications"][0].update(rout_prefix=None),
            r"applications\[0\].rout_prefix: no such key",
        ),
        (lambda c: _denoiser(c).update(num_replica=1), r"deployments\[0\].num_replica: no such key"),
        (lambda c: _denoiser(c)["autoscaling_config"].update(max=9), "autoscaling_config.max: no such key"),
        (
            lambda c: _denoiser(c)["ray_actor_options"].update(num_gpu=1),
            "ray_actor_options.num_gpu: no such key",
        ),
        (lambda c: _denoiser(c).update(max_ongoing_requests="many"), "max_ongoing_requests: Input should be"),
        (lambda c: c["applications"][0]["args"].update(modle="tiny"), "args.modle: Extra inputs"),
        (lambda c: c["applications"][0]["args"].clear(), "give either model"),
    ],
)
def test_a_config_that_serve_would_half_ignore_is_refused(
    spoil: Callable[[dict[str, Any]], None], message: str
) -> None:
    config = copy.deepcopy(_config())
    spoil(config)
    with pytest.raises(errors.ConfigError, match=message):
        check_serve_config(config)


def test_the_config_is_taken_by_serve() -> None:
    check_serve_config(_config())
    (application,) = ServeDeploySchema.model_validate(_config()).applications
    by_name = {deployment.name: deployment for deployment in application.deployments}
    assert set(by_name) == {"Denoiser", "Solver", "Gateway"}
    assert by_name["Denoiser"].autoscaling_config["max_replicas"] == 6
    assert by_name["Denoiser"].ray_actor_options.num_gpus == 0.5
    assert by_name["Solver"].num_replicas == 3
    assert by_name["Solver"].max_queued_requests == by_name["Denoiser"].max_queued_requests == 7
    assert by_name["Gateway"].graceful_shutdown_timeout_s == 8.0


def test_solvers_draw_for_themselves_where_there_are_no_denoisers(tmp_path: Path) -> None:
    args = ApplicationArgs(bundle=tmp_path, denoisers=False)
    _, pair = build(args)._bound_deployment.init_args
    assert pair.solver is pair.denoiser
    assert pair.solver._bound_deployment.name == "Solver"
    with pytest.raises(
        errors.ConfigError, match="replicas of Denoiser: nothing of it is served, only Solver"
    ):
        serve_config(args, load_settings(), REPLICAS)
    config = serve_config(args, load_settings(), {"Solver": Replicas(count=3)})
    check_serve_config(config)
    assert [one["name"] for one in config["applications"][0]["deployments"]] == ["Solver", "Gateway"]


def test_the_application_has_the_options_of_the_config(tmp_path: Path) -> None:
    gateway = build(ApplicationArgs(bundle=tmp_path))._bound_deployment
    _, (solver, denoiser) = gateway.init_args
    assert solver._bound_deployment.init_args[1] is denoiser
    expected = deployment_options(load_settings(), {})
    for bound in (gateway, solver._bound_deployment, denoiser._bound_deployment):
        wanted = expected[bound.name]
        assert bound.ray_actor_options["num_cpus"] == wanted["ray_actor_options"]["num_cpus"]
        assert bound.max_ongoing_requests == wanted["max_ongoing_requests"]
        assert bound.num_replicas == wanted["num_replicas"]
    for bound in (solver, denoiser):
        assert bound._bound_deployment._deployment_config.max_queued_requests == 32
    assert gateway._deployment_config.graceful_shutdown_timeout_s == 15.0
