"""A registered student as its teacher's cheaper sampler: whether it is one, and where its graph goes.

Its word is not enough, as at a promotion (`registry.descent`): it must take the teacher's contexts and noise
to nearly the teacher's scenarios, by the served graphs of both, in fewer calls of its network. What its
scenarios cost as a ground for decisions is measured elsewhere (`hedgecast measure-ladder`) and is told with
every answer; no bound is set on it here.
"""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

from hedgecast.core.errors import BundleError, ModelNotFoundError
from hedgecast.registry.bundle import Bundle
from hedgecast.registry.checks import LARGEST_DISTANCE
from hedgecast.registry.descent import TEACHER_FINGERPRINT, descent_of
from hedgecast.registry.graphs import SCENARIOS_GRAPH
from hedgecast.registry.ladder import Student
from hedgecast.registry.store import ModelStore, ModelVersion


def newest_student(store: ModelStore, name: str, teacher: Bundle) -> ModelVersion:
    """The newest version of model ``name`` that calls itself a student of ``teacher``.

    Raises
    ------
    ModelNotFoundError
        There is none.
    """
    fingerprint = teacher.manifest.fingerprint
    found = [one for one in store.versions(name) if one.tags.get(TEACHER_FINGERPRINT) == fingerprint]
    if not found:
        raise ModelNotFoundError(
            f"no version of {name} is a student of {fingerprint[:12]}: train one (hedgecast distill), or "
            "name one of another model (--student)",
            model=name,
        )
    return found[-1]


def student_of(bundle: Bundle, version: ModelVersion, teacher: Bundle) -> Student:
    """What is known of a student of ``teacher``, once it has been found to be one.

    Parameters
    ----------
    bundle : Bundle
        The student's.
    version : ModelVersion
        As it is registered.
    teacher : Bundle
        Of the model that is served.

    Raises
    ------
    BundleError
        It is none, is no faster, or takes other contexts or noise.
    """
    if not _fits(bundle, teacher):
        raise _refused(version, teacher, "takes other contexts or noise, or gives other series")
    descent = descent_of(bundle, teacher)
    if descent is None:
        raise _refused(version, teacher, "names another teacher, or none")
    if descent.calls >= descent.teacher_calls:
        calls = f"{descent.calls} network calls, the model {descent.teacher_calls}"
        raise _refused(version, teacher, f"needs {calls}")
    if not descent.distance <= LARGEST_DISTANCE:
        raise _refused(
            version,
            teacher,
            f"is {descent.distance:.2f} of what the network does to noise away from the model's scenarios, a "
            f"student is at most {LARGEST_DISTANCE:g} away",
        )
    return Student(
        name=version.name,
        version=str(version.version),
        fingerprint=bundle.manifest.fingerprint,
        digest=bundle.manifest.files[SCENARIOS_GRAPH],
        calls=descent.calls,
        teacher_calls=descent.teacher_calls,
        distance=descent.distance,
    )


def write_graph(student: Student, bundle: Bundle, folder: Path) -> Path:
    """The file in ``folder`` with the scenario graph of the student's ``bundle``, which appears whole."""
    path = folder / student.graph
    temporary = folder / f".{path.name}.{os.getpid()}"
    try:
        temporary.write_bytes(bundle.scenarios_graph.read_bytes())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def _refused(version: ModelVersion, teacher: Bundle, reason: str) -> BundleError:
    model = f"{teacher.manifest.name} {teacher.manifest.fingerprint[:12]}"
    return BundleError(
        f"{version.reference} is no student of {model}: it {reason}; name another (--student)",
        model=version.reference,
    )


def _fits(bundle: Bundle, teacher: Bundle) -> bool:
    """Whether both take and give the same, by whatever sampler."""
    shapes = [dataclasses.replace(one.manifest.generator, sampler="").to_dict() for one in (bundle, teacher)]
    return shapes[0] == shapes[1] and bundle.manifest.schema == teacher.manifest.schema
