#!/bin/sh
# Train a student of few steps from a registered model on one node of a Ray cluster; it becomes candidate.
#
#     RAY_API_SERVER_ADDRESS=http://HOST:8265 HEDGECAST_REGISTRY=http://mlflow:5000 \
#     deploy/jobs/distill.sh my_study.toml [--steps 2 ...]
#
# HEDGECAST_MODEL (the study's candidate): the teacher, NAME@VERSION or NAME@ALIAS.
set -eu
: "${RAY_API_SERVER_ADDRESS:?is not set: http://HOST:8265 of the cluster}"
: "${HEDGECAST_REGISTRY:?is not set: the address of an MLflow server, or a folder that all nodes share}"
study="${1:?: name a study or a study file}"
shift
name="$(basename "$study" .toml)-$(date -u +%Y%m%d-%H%M%S)"
exec ray job submit --working-dir . --entrypoint-num-cpus 1 --submission-id "distill-$name" -- \
    hedgecast distill "$study" ${HEDGECAST_MODEL:+--model "$HEDGECAST_MODEL"} \
    --registry "$HEDGECAST_REGISTRY" --json "$@"
