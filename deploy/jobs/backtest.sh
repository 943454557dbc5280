#!/bin/sh
# Compare methods on the test days of a study, on one node of a Ray cluster.
#
#     RAY_API_SERVER_ADDRESS=http://HOST:8265 HEDGECAST_RESULTS=/mnt/shared/results \
#     deploy/jobs/backtest.sh my_study.toml [--methods ridge-residual,diffusion-dfl ...]
#
# HEDGECAST_SEEDS (5): of each method. HEDGECAST_TRIALS_AT_ONCE (4): as many CPUs of one node are asked for.
# HEDGECAST_RESULTS: a folder that outlives the job. HEDGECAST_RUN (the study's name): its subfolder; finished
# trials stay there, and the same call goes on with the rest.
set -eu
: "${RAY_API_SERVER_ADDRESS:?is not set: http://HOST:8265 of the cluster}"
: "${HEDGECAST_RESULTS:?is not set: a folder that outlives the job}"
study="${1:?: name a study or a study file}"
shift
run="${HEDGECAST_RUN:-$(basename "$study" .toml)}"
trials="${HEDGECAST_TRIALS_AT_ONCE:-4}"
exec ray job submit --working-dir . --entrypoint-num-cpus "$trials" \
    --submission-id "backtest-$run-$(date -u +%Y%m%d-%H%M%S)" -- \
    hedgecast backtest "$study" --seeds "${HEDGECAST_SEEDS:-5}" --workers "$trials" \
    --output "$HEDGECAST_RESULTS/backtest-$run" --json "$@"
