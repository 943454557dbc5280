"""Small real things for tests, here and in packages that build on hedgecast."""

from __future__ import annotations

import dataclasses
import datetime
import ipaddress
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from hedgecast.data.datasets import load_table
from hedgecast.data.features import features
from hedgecast.data.schema import FeatureSchema
from hedgecast.data.splits import Split, split_windows
from hedgecast.data.windows import build_windows
from hedgecast.diffusion.generator import Generator
from hedgecast.learning.distillation import student_of
from hedgecast.learning.study import Study, read_study
from hedgecast.registry.bundle import GENERATOR_WEIGHTS, MODEL_CARD, Bundle, write_bundle
from hedgecast.registry.descent import TEACHER_FINGERPRINT
from hedgecast.registry.evidence import ValidationDays
from hedgecast.registry.export import ScenarioGraph, export_graph
from hedgecast.registry.graphs import SCENARIOS_GRAPH
from hedgecast.registry.package import package
from hedgecast.registry.weights import weights_of
from hedgecast.rpc.codec import NamedRows

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

"""Hourly steps that the model of `last_day_model` looks back and plans ahead."""
_HOUR = np.timedelta64(1, "h")
_MINUTE = datetime.timedelta(minutes=1)
_STUDY = """
name = "tiny"

[data]
path = "tiny.csv"
timestamp = "timestamp"
timezone = "Europe/Berlin"
step = "1h"
targets = ["load_gw"]
known = ["holiday"]
units = {{ load_gw = "GW" }}
history = 168
horizon = 24

[split]
validation = "{validation}"
test = "{test}"

[program]
name = "generation_scheduling"

[program.parameters]
ramp_limit = 4.0
capacity = 80.0

[program.units]
schedule = "GW"

[learning]
method = "diffusion"
"""


def write_tiny_study(folder: Path, *, num_days: int = 260, seed: int = 0, start: str = "2021-01-01") -> Path:
    """Path of a study file whose CSV table, written beside it, has a made-up load.

    Parameters
    ----------
    folder : Path
        Where both files go.
    num_days : int
        Local days in the table; the last 30 are the test, the 40 before them validation.
    seed : int
        Of the made-up load: a daily and weekly shape, a slow level, and noise that is wider at noon.
    start : str
        First local day; an ordinary year has both changes of the clock in it.
    """
    begin = np.datetime64(f"{start}T00:00", "h") - np.timedelta64(1, "h")  # Berlin's winter midnight in UTC
    times = begin + np.arange(24 * num_days).astype("timedelta64[h]")
    generator = np.random.default_rng(seed)
    hours = np.arange(len(times))
    noon = np.exp(-0.5 * ((hours % 24 - 11) / 3.0) ** 2)
    weekend = ((hours // 24) % 7) >= 5
    level = np.convolve(generator.normal(size=len(times) + 71), np.ones(72) / 72**0.5, mode="valid")
    load = 45 + 10 * noon - 6 * weekend + 1.5 * level + (0.4 + noon) * generator.normal(size=len(times))
    table = "\n".join(
        f"{str(time).replace('T', ' ')}:00+00:00,{value:.6f},{int(off)}"
        for time, value, off in zip(times.astype("datetime64[m]"), load, weekend, strict=True)
    )
    (folder / "tiny.csv").write_text("timestamp,load_gw,holiday\n" + table + "\n", encoding="utf-8")
    last = np.datetime64(start) + num_days
    study = folder / "tiny.toml"
    study.write_text(_STUDY.format(validation=last - 70, test=last - 30), encoding="utf-8")
    return study


@dataclasses.dataclass(frozen=True, slots=True)
class TinyModel:
    """A small study with an exported generator: real statistics, a network moved off its start."""

    study: Study
    schema: FeatureSchema
    split: Split
    generator: Generator
    bundle: Bundle

    def day_rows(self, start: str = "2021-02-09T23:00") -> tuple[NamedRows, NamedRows]:
        """What is told about a local day that begins at ``start``, UTC: history, and what is known ahead."""
        table = load_table(self.study.data)
        first = int(np.searchsorted(table.times, np.datetime64(start, "ns")))
        past, ahead = slice(first - 200, first), slice(first, first + 24)
        history = {name: table.columns[name][past] for name in ("load_gw", "holiday")}
        return (
            NamedRows(times=table.times[past], columns=history),
            NamedRows(times=table.times[ahead], columns={"holiday": table.columns["holiday"][ahead]}),
        )

    def question(self, start: str = "2021-02-09T23:00") -> dict[str, Any]:
        """The same as a client's arguments."""
        history, known = self.day_rows(start)
        return {
            "history": history.columns,
            "history_times": history.times,
            "known": known.columns,
            "known_times": known.times,
        }


def make_tiny_model(folder: Path, *, network_seed: int = 0) -> TinyModel:
    """The tiny study's model, its bundle in ``folder / "bundle"``; nothing is trained.

    Another ``network_seed`` makes another version of the same model: other scenarios of the same days.
    """
    study = read_study(write_tiny_study(folder))
    table = load_table(study.data)
    schema = FeatureSchema.from_table(study.data, table)
    split = split_windows(build_windows(table, schema), study.split)
    draws = torch.Generator().manual_seed(network_seed)
    context = torch.from_numpy(features(split.train))
    generator, _ = Generator.fitted(Generator.Config(), context, torch.from_numpy(split.train.slots), draws)
    with torch.no_grad():
        for parameter in generator.denoiser.exit.parameters():
            parameter.normal_(0.0, 0.05, generator=draws)
    bundle = package(
        folder / "bundle",
        study=study,
        schema=schema,
        generator=generator,
        context=context[:10],
        train=split.train,
        training={"days": len(split.train)},
        metrics=passing_metrics(),
        days=made_up_days(),
    )
    return TinyModel(study=study, schema=schema, split=split, generator=generator, bundle=bundle)


def make_tiny_student(tiny: TinyModel, folder: Path, *, steps: int = 4) -> Bundle:
    """A bundle in ``folder`` that calls itself a student of the tiny model: its own weights in fewer steps.

    No training makes up for the steps, so it is further from its teacher than a distilled one.
    """
    generator = student_of(tiny.generator, steps)
    context = torch.from_numpy(features(tiny.split.train))[:2].float()
    noise = torch.randn(2, 3, generator.dim, generator=torch.Generator().manual_seed(0))
    graph = export_graph(ScenarioGraph(generator.eval()), (context, noise), ("context", "noise"), "paths")
    return altered_bundle(
        tiny.bundle,
        folder,
        files={SCENARIOS_GRAPH: graph, GENERATOR_WEIGHTS: weights_of(generator)},
        training={TEACHER_FINGERPRINT: tiny.bundle.manifest.fingerprint},
        generator={**tiny.bundle.manifest.generator.to_dict(), "sampler": f"euler, {steps} steps"},
    )


def altered_bundle(
    bundle: Bundle,
    folder: Path,
    *,
    files: Mapping[str, bytes] | None = None,
    without: Sequence[str] = (),
    metrics: Mapping[str, float] | None = None,
    training: Mapping[str, Any] | None = None,
    **manifest: Any,
) -> Bundle:
    """A copy of ``bundle`` in ``folder`` that holds or says something else; its checksums hold.

    Parameters
    ----------
    files : mapping
        Name to content, in place of the bundle's.
    without : sequence of str
        Files that are left out.
    metrics, training : mapping
        Added to those of the manifest.
    **manifest
        Its other fields.
    """
    record = bundle.manifest.to_dict()
    names = set(record.pop("files")) - {MODEL_CARD, *without}
    del record["format"]
    record["metrics"] |= metrics or {}
    record["training"] |= training or {}
    content = {name: (bundle.folder / name).read_bytes() for name in names}
    return write_bundle(
        folder, files={**content, **(files or {})}, card="# copy\n", manifest={**record, **manifest}
    )


def passing_metrics() -> dict[str, float]:
    """Metrics of a made-up model that is as real as its baseline; the graphs are measured at export."""
    figures = {
        "crps": 1.0,
        "crps_tails": 0.4,
        "energy_score": 6.0,
        "variogram_score": 0.1,
        "coverage": 0.9,
        "pit_distance": 0.05,
        "increment_distance": 0.15,
        "autocorrelation_distance": 0.05,
        "two_sample_auc": 0.55,
        "diversity_ratio": 1.0,
        "transfer_regret": 600.0,
    }
    baseline = {f"baseline_{name}": value for name, value in figures.items()}
    return {**figures, **baseline, "unsolved_share": 0.0}


def made_up_days(*, saved: float = 0.0, num_days: int = 84, seed: int = 0) -> ValidationDays:
    """Validation days with made-up costs of about 500.

    Parameters
    ----------
    saved : float
        What the model saves a day, against the baseline and against the same days with another ``saved``.
    num_days : int
        From 2021-07-01.
    seed : int
        Of the costs.
    """
    draws = np.random.default_rng(seed)
    best = draws.gamma(4.0, 10.0, size=num_days)
    baseline_cost = best + draws.gamma(4.0, 120.0, size=num_days)
    return ValidationDays(
        days=np.datetime64("2021-07-01") + np.arange(num_days),
        cost=baseline_cost - saved + draws.normal(size=num_days),
        best=best,
        baseline_cost=baseline_cost,
        baseline="ridge-residual",
        num_scenarios=200,
        data="0" * 64,
        program="1" * 64,
    )


class GaussianDenoiser(nn.Module):
    """The exact velocity of whitened residuals e ~ N(m, v I), each day with parameters of its own.

        F(x, t) = (x - cos t m) sin t cos t (1 - v) / (cos^2 t v + sin^2 t) - sin t m

    so the sampler draws m + sqrt(v) noise up to its own error, of which the mean's part is known: at v = 1
    Heun's n steps draw `reach(n)` m + noise, exactly.

    Parameters
    ----------
    mean : Tensor
        (B, D) float64; the context of day b is the number b.
    """

    def __init__(self, mean: Tensor) -> None:
        super().__init__()
        self.mean = nn.Parameter(mean.clone())
        self.log_deviation = nn.Parameter(torch.zeros_like(mean))

    def encode(self, context: Tensor) -> Tensor:
        """(B, 2 D) mean and log deviation of the days that ``context`` (B, 1) numbers."""
        rows = context[:, 0].long()
        return torch.cat([self.mean[rows], self.log_deviation[rows]], dim=1)

    def forward(self, state: Tensor, times: float | Tensor, encoded: Tensor) -> Tensor:
        """(B, S, D) velocities; arguments as of `hedgecast.diffusion.denoiser.Denoiser`."""
        mean, log_deviation = encoded.unsqueeze(1).chunk(2, dim=2)
        variance = torch.exp(2.0 * log_deviation)
        angle = torch.as_tensor(times, dtype=state.dtype, device=state.device).unsqueeze(-1)
        sine, cosine = torch.sin(angle), torch.cos(angle)
        pull = sine * cosine * (1.0 - variance) / (cosine.square() * variance + sine.square())
        return (state - cosine * mean) * pull - sine * mean


def gaussian_generator(mean: Tensor, *, sampler_steps: int = 32) -> Generator:
    """A float64 generator of N(mean, I) days, one step long for each column of ``mean`` (B, D).

    Day b's context is the number b. Its denoiser is a `GaussianDenoiser`: gradients of a mean over days
    fall apart by day, so one call gives B independent replicates of an estimator.
    """
    config = Generator.Config(sampler="heun", sampler_steps=sampler_steps, context_limit=1e9)
    model = Generator(config, num_features=1, num_steps=mean.shape[1], num_series=1).double()
    model.denoiser = GaussianDenoiser(mean.double())  # type: ignore[assignment]
    return model


def reach(num_steps: int, last: int | None = None) -> float:
    """What the ``last`` of Heun's steps (None: all) add of the mean: the trapezoidal rule of sin t."""
    angles = torch.linspace(torch.pi / 2, 0.0, num_steps + 1, dtype=torch.float64)
    heights = 0.5 * (torch.sin(angles[:-1]) + torch.sin(angles[1:]))
    parts = heights * (torch.pi / 2 / num_steps)
    return float(parts[-(last or num_steps) :].sum())


class Authority:
    """Issues loopback certificates into ``folder``: NAME.pem and NAME.key; ca.pem vouches for them.

    Needs cryptography, which only tests and benchmarks install.
    """

    def __init__(self, folder: Path) -> None:
        from cryptography.hazmat.primitives.asymmetric import ec

        folder.mkdir(exist_ok=True)
        self.folder = folder
        self.certificates = folder / "ca.pem"
        self._key = ec.generate_private_key(ec.SECP256R1())
        self.certificates.write_bytes(self._signed("test authority", self._key, authority=True, age=-_MINUTE))

    def issue(self, who: str, *, file: str = "", age: datetime.timedelta | None = None) -> tuple[Path, Path]:
        """Certificate and key of ``who``, valid for an hour from ``age`` (a minute ago) from now on."""
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ec

        key = ec.generate_private_key(ec.SECP256R1())
        certificate, secret = self.folder / f"{file or who}.pem", self.folder / f"{file or who}.key"
        certificate.write_bytes(self._signed(who, key, authority=False, age=-_MINUTE if age is None else age))
        form, coding = serialization.PrivateFormat.PKCS8, serialization.Encoding.PEM
        secret.write_bytes(key.private_bytes(coding, form, serialization.NoEncryption()))
        return certificate, secret

    def _signed(
        self, who: str, key: EllipticCurvePrivateKey, *, authority: bool, age: datetime.timedelta
    ) -> bytes:
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes, serialization

        def name(text: str) -> x509.Name:
            return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)])

        begin = datetime.datetime.now(datetime.UTC) + age
        names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
        builder = (
            x509.CertificateBuilder()
            .subject_name(name(who))
            .issuer_name(name("test authority"))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(begin)
            .not_valid_after(begin + 60 * _MINUTE)
            .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
            .add_extension(names, critical=False)
        )
        return builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
