#!/bin/sh
# Train a study on a Ray cluster, register the model, promote it if it passes its checks.
#
#     RAY_API_SERVER_ADDRESS=http://HOST:8265 HEDGECAST_REGISTRY=http://mlflow:5000 \
#     HEDGECAST_STORAGE=s3://bucket/runs deploy/jobs/train.sh my_study.toml [--set learning.seed=3 ...]
#
# The folder of the call travels with the job. HEDGECAST_WORKERS (2): Ray processes that share each step.
# HEDGECAST_RUN (the study's name and the time): name it to go on with a run that was cut off.
# HEDGECAST_GPU=1: a GPU for each worker. With token authentication on, set RAY_AUTH_MODE and RAY_AUTH_TOKEN.
set -eu
: "${RAY_API_SERVER_ADDRESS:?is not set: http://HOST:8265 of the cluster}"
: "${HEDGECAST_REGISTRY:?is not set: the address of an MLflow server, or a folder that all nodes share}"
: "${HEDGECAST_STORAGE:?is not set: a folder or s3://... that all nodes reach, for checkpoints}"
study="${1:?: name a study or a study file}"
shift
run="${HEDGECAST_RUN:-$(basename "$study" .toml)-$(date -u +%Y%m%d-%H%M%S)}"
# The job's own process takes a CPU: Ray then starts it on a worker's node, not on the head.
exec ray job submit --working-dir . --entrypoint-num-cpus 1 --submission-id "train-$run" -- \
    hedgecast train "$study" --workers "${HEDGECAST_WORKERS:-2}" ${HEDGECAST_GPU:+--gpu} \
    --storage "$HEDGECAST_STORAGE" --run-name "$run" --registry "$HEDGECAST_REGISTRY" --json "$@"
