{{- /* Environment of Ray's processes, and numbers of replicas. Called with root and study. */ -}}

{{- /* replicas and maxReplicas of a component: the study's, else everybody's. */ -}}
{{- define "hedgecast.scale" -}}
{{- $everybody := index .root.Values .component -}}
{{- $own := index .study .component | default dict -}}
{{- $replicas := $own.replicas | default $everybody.replicas -}}
replicas: {{ $replicas }}
maxReplicas: {{ $own.maxReplicas | default $everybody.maxReplicas | default $replicas }}
{{- end }}

{{- /* A value as an environment variable has it: numbers never in powers of ten. */ -}}
{{- define "hedgecast.text" -}}
{{- if kindIs "string" . -}}{{ . }}{{- else -}}{{ toJson . }}{{- end -}}
{{- end }}

{{- define "hedgecast.access" -}}
{{- .study.access | default .root.Values.gateway.access -}}
{{- end }}

{{- /* HEDGECAST_* of hedgecast.service.settings. */ -}}
{{- define "hedgecast.settings" -}}
{{- $gateway := .root.Values.gateway -}}
{{- $monitoring := .root.Values.monitoring -}}
HEDGECAST_HOST: "0.0.0.0"
HEDGECAST_PORT: {{ $gateway.port | quote }}
HEDGECAST_HEALTH_HOST: "0.0.0.0"
HEDGECAST_HEALTH_PORT: {{ $gateway.healthPort | quote }}
HEDGECAST_DRAIN_FILE: /run/hedgecast/drain
{{- if $gateway.tls.enabled }}
HEDGECAST_TLS_CERTIFICATE: /etc/hedgecast/tls/tls.crt
HEDGECAST_TLS_KEY: /etc/hedgecast/tls/tls.key
{{- if $gateway.tls.mutual }}
HEDGECAST_TLS_CLIENT_CA: /etc/hedgecast/tls/ca.crt
{{- end }}
{{- else }}
HEDGECAST_ALLOW_INSECURE: "true"
{{- end }}
{{- if $gateway.tokens.enabled }}
HEDGECAST_TOKEN_FILE: /etc/hedgecast/tokens/tokens
{{- end }}
{{- if include "hedgecast.access" . }}
HEDGECAST_ACCESS_FILE: /etc/hedgecast/access/access.toml
{{- end }}
{{- if $gateway.audit.enabled }}
HEDGECAST_AUDIT_FILE: /var/log/hedgecast/audit.jsonl
{{- end }}
{{- if $gateway.outcomes.enabled }}
HEDGECAST_OUTCOMES_FOLDER: /var/lib/hedgecast/outcomes/{{ .study.name }}
{{- end }}
{{- if eq .root.Values.denoiser.accelerator "gpu" }}
HEDGECAST_EXECUTION_PROVIDERS: "CUDAExecutionProvider,CPUExecutionProvider"
{{- end }}
{{- if $monitoring.enabled }}
HEDGECAST_METRICS_HOST: "0.0.0.0"
HEDGECAST_METRICS_PORT: {{ $monitoring.port | quote }}
HEDGECAST_ALLOW_OPEN_METRICS: "true"
{{- end }}
{{- with $monitoring.traceEndpoint }}
HEDGECAST_TRACE_ENDPOINT: {{ . | quote }}
{{- end }}
{{- $solvers := include "hedgecast.scale" (dict "root" .root "study" .study "component" "solver") | fromYaml }}
{{- if gt (int $solvers.maxReplicas) (int $solvers.replicas) }}
{{- /* More than what they are scaled by, or that would never be reached. */}}
HEDGECAST_SOLVER_CALLS: {{ .root.Values.solver.targetRequests | floor | int | add1 | quote }}
{{- end }}
{{- range $key, $value := $gateway.settings }}
HEDGECAST_{{ $key | snakecase | upper }}: {{ include "hedgecast.text" $value | quote }}
{{- end }}
{{- end }}

{{- /* What every process of ours is told: where things are, and how Ray behaves. */ -}}
{{- define "hedgecast.environment" -}}
{{- $environment := dict
  "HOME" "/tmp"
  "HEDGECAST_HOME" "/var/lib/hedgecast"
  "HEDGECAST_CACHE" "/var/cache/hedgecast"
  "HEDGECAST_SURROGATES" "/var/lib/hedgecast/surrogates"
  "NUMBA_CACHE_DIR" "/var/cache/hedgecast/numba"
  "MPLCONFIGDIR" "/tmp/matplotlib"
  "OMP_NUM_THREADS" (.threads | default 1 | toString)
  "OMP_WAIT_POLICY" "passive"
  "RAY_USAGE_STATS_ENABLED" "0"
  "RAY_SERVE_USE_GRPC_BY_DEFAULT" "1"
  "RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH" "1073741824"
  "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD" "0"
  "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP" "0"
-}}
{{- if not .root.Values.rayAuth.enabled -}}
{{- $_ := set $environment "RAY_AUTH_MODE" "disabled" -}}
{{- end -}}
{{- with .moving -}}
{{- $_ := set $environment "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S" (toString .) -}}
{{- end -}}
{{- range $name, $value := $environment }}
- name: {{ $name }}
  value: {{ $value | quote }}
{{- end }}
{{- end }}

{{- /* The file that `serve deploy` takes; hedgecast_workers.serve_config makes the same. */ -}}
{{- define "hedgecast.serveConfig" -}}
{{- $values := .root.Values -}}
{{- $limit := $values.gateway.settings.maxConcurrentRequests -}}
{{- $working := ternary (list "denoiser" "solver") (list "solver") $values.denoiser.apart -}}
proxy_location: Disabled
logging_config:
  log_level: WARNING
  enable_access_log: false
applications:
  - name: hedgecast
    route_prefix: null
    import_path: hedgecast_workers.application:build
    args:
      model: {{ .study.model | quote }}
      {{- with .study.canary }}
      canary: {{ . | quote }}
      {{- end }}
      {{- with include "hedgecast.registry" .root }}
      registry: {{ . | quote }}
      {{- end }}
      threads: {{ $values.denoiser.threads }}
      denoisers: {{ $values.denoiser.apart }}
    deployments:
      {{- range $component := $working }}
      {{- $own := index $values $component }}
      {{- $scale := include "hedgecast.scale" (dict "root" $.root "study" $.study "component" $component) | fromYaml }}
      - name: {{ $component | title }}
        ray_actor_options:
          num_cpus: 0.1
          {{- if eq ($own.accelerator | default "cpu") "gpu" }}
          num_gpus: 1
          {{- end }}
          resources:
            hedgecast_{{ $component }}: 1
        {{- if gt (int $scale.maxReplicas) (int $scale.replicas) }}
        autoscaling_config:
          min_replicas: {{ $scale.replicas }}
          max_replicas: {{ $scale.maxReplicas }}
          target_ongoing_requests: {{ $own.targetRequests }}
          upscale_delay_s: {{ $values.serve.upscaleDelaySeconds }}
          downscale_delay_s: {{ $values.serve.downscaleDelaySeconds }}
        {{- else }}
        num_replicas: {{ $scale.replicas }}
        {{- end }}
        max_ongoing_requests: {{ $limit }}
        max_queued_requests: {{ $limit }}
      {{- end }}
      {{- if .study.canary }}
      {{- range $component := $working }}
      - name: Canary{{ $component | title }}
        ray_actor_options:
          num_cpus: 0.1
          {{- if eq ((index $values $component).accelerator | default "cpu") "gpu" }}
          num_gpus: 1
          {{- end }}
          resources:
            hedgecast_canary_{{ $component }}: 1
        num_replicas: 1
        max_ongoing_requests: {{ $limit }}
        max_queued_requests: {{ $limit }}
      {{- end }}
      {{- end }}
      - name: Gateway
        ray_actor_options:
          num_cpus: 0.1
          resources:
            hedgecast_gateway: 1
        num_replicas: {{ (include "hedgecast.scale" (dict "root" .root "study" .study "component" "gateway") | fromYaml).replicas }}
        max_ongoing_requests: {{ $limit }}
        graceful_shutdown_timeout_s: {{ add $values.gateway.settings.drainSeconds 5 }}
{{- end }}
