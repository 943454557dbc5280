#!/bin/sh
# Search better settings of a study on a Ray cluster, on validation days alone.
#
#     RAY_API_SERVER_ADDRESS=http://HOST:8265 HEDGECAST_STORAGE=s3://bucket/tuning \
#     HEDGECAST_RESULTS=/mnt/shared/results deploy/jobs/tune.sh my_study.toml [--set tune.grace_epochs=20 ...]
#
# HEDGECAST_TRIALS (20): settings tried; HEDGECAST_CONCURRENT (4): at once, a CPU each.
# HEDGECAST_RESULTS: a folder that outlives the job; the file of all trials goes there.
set -eu
: "${RAY_API_SERVER_ADDRESS:?is not set: http://HOST:8265 of the cluster}"
: "${HEDGECAST_STORAGE:?is not set: a folder or s3://... that all nodes reach, for the files of Ray Tune}"
: "${HEDGECAST_RESULTS:?is not set: a folder that outlives the job}"
study="${1:?: name a study or a study file}"
shift
name="$(basename "$study" .toml)-$(date -u +%Y%m%d-%H%M%S)"
exec ray job submit --working-dir . --entrypoint-num-cpus 1 --submission-id "tune-$name" -- \
    hedgecast tune "$study" --trials "${HEDGECAST_TRIALS:-20}" --concurrent "${HEDGECAST_CONCURRENT:-4}" \
    --storage "$HEDGECAST_STORAGE" --output "$HEDGECAST_RESULTS/tune-$name.json" --json "$@"
