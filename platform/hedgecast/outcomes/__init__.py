"""What was decided, what really happened, and what follows for the models.

A decision is kept when it is answered; its outcome is kept when it is known, on the disk before it is
acknowledged. The caller computes realized cost and regret: nothing here knows programs or gRPC.

Examples
--------
>>> import datetime, tempfile
>>> import numpy as np
>>> from hedgecast.outcomes import DecisionRecord, OutcomeRecord, OutcomeStore
>>> from hedgecast.outcomes import band_of, performance_of, recommend
>>> now = datetime.datetime(2030, 1, 1, tzinfo=datetime.UTC)
>>> paths = np.random.default_rng(1).normal(50.0, 5.0, (200, 24))
>>> levels = np.array([0.05, 0.95])
>>> folder = tempfile.TemporaryDirectory()
>>> store = OutcomeStore(folder.name)
>>> kept = store.keep(
...     DecisionRecord(
...         decision_id="d-1", request_id="r-1", model="power", model_version="3", program="newsvendor",
...         program_version="1", issued_at=now, seed=7, decision={"order": np.full(24, 52.0)},
...         expected_cost=310.0, expected_regret=12.0, cost=band_of(paths.sum(axis=1), levels),
...         bands={"load": band_of(paths, levels)},
...     )
... )
>>> outcome = OutcomeRecord.of(
...     kept, realized={"load": np.full(24, 49.0)}, cost=305.0, regret=4.5, recorded_at=now, request_id="o-1"
... )
>>> store.record("d-1", outcome).covered["load"].shares.tolist()
[0.0, 1.0]
>>> store.record("d-1", outcome).regret  # a retry changes nothing
4.5
>>> performance = performance_of(store.figures()["power", "3"])
>>> performance.regret.mean, performance.state
(4.5, 'too_few')
>>> recommend(store.pairs("power", champion="3", challenger="4")).action
'go_on'
>>> store.close()
>>> folder.cleanup()
"""

from hedgecast.outcomes.admission import Limits
from hedgecast.outcomes.canary import CanaryConfig, PairedRegrets, Recommendation, recommend
from hedgecast.outcomes.confidence import Sequence, SequenceConfig, confidence_sequence
from hedgecast.outcomes.encoding import Kind
from hedgecast.outcomes.figures import Figures
from hedgecast.outcomes.journal import Retention, salvage
from hedgecast.outcomes.performance import Coverage, Drift, Performance, PerformanceConfig, performance_of
from hedgecast.outcomes.records import Band, Covered, DecisionRecord, OutcomeRecord, band_of
from hedgecast.outcomes.series import Mean
from hedgecast.outcomes.store import OutcomeStore

__all__ = [
    "Band",
    "CanaryConfig",
    "Coverage",
    "Covered",
    "DecisionRecord",
    "Drift",
    "Figures",
    "Kind",
    "Limits",
    "Mean",
    "OutcomeRecord",
    "OutcomeStore",
    "PairedRegrets",
    "Performance",
    "PerformanceConfig",
    "Recommendation",
    "Retention",
    "Sequence",
    "SequenceConfig",
    "band_of",
    "confidence_sequence",
    "performance_of",
    "recommend",
    "salvage",
]
