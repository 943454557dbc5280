#!/bin/sh
# Draw scenarios of many days on a Ray cluster, into a folder of Parquet files; docs/bulk.md.
#
#     RAY_API_SERVER_ADDRESS=http://HOST:8265 HEDGECAST_REGISTRY=http://mlflow:5000 \
#     HEDGECAST_OUT=s3://bucket/2020 deploy/jobs/generate.sh my_study.toml --days 2020-01-01..2020-12-31
#
# HEDGECAST_MODEL (the study's name @champion), HEDGECAST_SCENARIOS (1000) of each day, HEDGECAST_ACTORS (4)
# processes that draw, a CPU each. The same call goes on with the days that are missing.
set -eu
: "${RAY_API_SERVER_ADDRESS:?is not set: http://HOST:8265 of the cluster}"
: "${HEDGECAST_REGISTRY:?is not set: the address of an MLflow server, or a folder that all nodes share}"
: "${HEDGECAST_OUT:?is not set: a folder or s3://... that all nodes reach}"
study="${1:?: name a study or a study file}"
shift
name="$(basename "$study" .toml)"
exec ray job submit --working-dir . --entrypoint-num-cpus 1 \
    --submission-id "generate-$name-$(date -u +%Y%m%d-%H%M%S)" -- \
    hedgecast generate "$study" --model "${HEDGECAST_MODEL:-$name@champion}" \
    --scenarios "${HEDGECAST_SCENARIOS:-1000}" --actors "${HEDGECAST_ACTORS:-4}" \
    --out "$HEDGECAST_OUT" --registry "$HEDGECAST_REGISTRY" --json "$@"
