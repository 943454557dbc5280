"""What calls itself a student is measured against its teacher by both served graphs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from hedgecast.core.errors import BundleError
from hedgecast.diffusion.noise import scenario_noise
from hedgecast.learning.distillation import student_of
from hedgecast.registry.bundle import GENERATOR_WEIGHTS, Bundle
from hedgecast.registry.descent import TEACHER_FINGERPRINT, descent_of
from hedgecast.registry.graphs import BASELINE_GRAPH, SCENARIOS_GRAPH
from hedgecast.registry.weights import weights_of
from hedgecast.testing import TinyModel, altered_bundle


def claiming(bundle: Bundle, folder: Path, files: dict[str, bytes]) -> Bundle:
    """A copy of ``bundle`` with other ``files`` that calls itself its student."""
    return altered_bundle(
        bundle, folder, files=files, training={TEACHER_FINGERPRINT: bundle.manifest.fingerprint}
    )


def test_who_names_no_teacher_or_another_one_is_no_student(trained: TinyModel, tmp_path: Path) -> None:
    assert descent_of(trained.bundle, trained.bundle) is None
    other = altered_bundle(trained.bundle, tmp_path / "other", training={TEACHER_FINGERPRINT: "9" * 64})
    assert descent_of(other, trained.bundle) is None


def test_the_teachers_own_graph_is_at_no_distance(trained: TinyModel, tmp_path: Path) -> None:
    weights = weights_of(student_of(trained.generator, 2))
    student = claiming(trained.bundle, tmp_path / "student", {GENERATOR_WEIGHTS: weights})
    found = descent_of(student, trained.bundle)
    assert found is not None
    assert (found.distance, found.calls, found.teacher_calls, found.students_before) == (0.0, 2, 8, 0)
    # Who learns from it learns from a student.
    pupil = claiming(student, tmp_path / "pupil", {})
    grandchild = descent_of(pupil, student)
    assert grandchild is not None
    assert grandchild.students_before == 1


def test_without_the_network_the_distance_is_one(trained: TinyModel, tmp_path: Path) -> None:
    baseline = (trained.bundle.folder / BASELINE_GRAPH).read_bytes()
    liar = claiming(trained.bundle, tmp_path / "liar", {SCENARIOS_GRAPH: baseline})
    found = descent_of(liar, trained.bundle)
    assert found is not None
    assert found.distance == pytest.approx(1.0, rel=1e-6)


def test_the_distance_is_that_of_the_torch_generator(trained: TinyModel, tmp_path: Path) -> None:
    """A teacher that moves no noise, so that a hundredth of the spread takes its place in equation (1)."""
    baseline = (trained.bundle.folder / BASELINE_GRAPH).read_bytes()
    still = altered_bundle(trained.bundle, tmp_path / "still", files={SCENARIOS_GRAPH: baseline})
    found = descent_of(
        altered_bundle(
            trained.bundle, tmp_path / "bent", training={TEACHER_FINGERPRINT: still.manifest.fingerprint}
        ),
        still,
    )
    assert found is not None
    model = trained.generator
    standard = torch.randn(64, model.num_features, generator=torch.Generator().manual_seed(0))
    context = model.whitening.center + model.whitening.spread * standard
    noise = torch.from_numpy(scenario_noise(0, range(64), 50, model.dim))
    with torch.no_grad():
        expected = model.finish(context, noise).double()
        missed = model.sample(context, noise).double() - expected
    spread = expected - expected.mean(dim=1, keepdim=True)
    size = float(missed.square().mean().sqrt() / (0.01 * spread.square().mean().sqrt()))
    assert found.distance == pytest.approx(size, rel=1e-3)


def test_models_of_other_days_have_no_distance(trained: TinyModel, tmp_path: Path) -> None:
    shape = trained.bundle.manifest.to_dict()["generator"]
    other = altered_bundle(
        trained.bundle,
        tmp_path / "other",
        training={TEACHER_FINGERPRINT: trained.bundle.manifest.fingerprint},
        generator={**shape, "num_features": shape["num_features"] + 1},
    )
    found = descent_of(other, trained.bundle)
    assert found is not None
    assert np.isnan(found.distance)


def test_a_claim_without_weights_cannot_be_looked_into(trained: TinyModel, tmp_path: Path) -> None:
    without = altered_bundle(
        trained.bundle,
        tmp_path / "without",
        training={TEACHER_FINGERPRINT: trained.bundle.manifest.fingerprint},
        without=(GENERATOR_WEIGHTS,),
    )
    with pytest.raises(BundleError, match=r"holds no generator\.npz"):
        descent_of(without, trained.bundle)
