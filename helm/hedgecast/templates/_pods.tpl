{{- /* Pods of Ray. */ -}}

{{- define "hedgecast.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
capabilities:
  drop: [ALL]
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{- define "hedgecast.podSecurity" -}}
runAsNonRoot: true
runAsUser: {{ .Values.podSecurity.runAsUser }}
runAsGroup: {{ .Values.podSecurity.runAsGroup }}
fsGroup: {{ .Values.podSecurity.runAsGroup }}
fsGroupChangePolicy: OnRootMismatch
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{- /* Called with root and gpu. */ -}}
{{- define "hedgecast.cacheContainer" -}}
# The volume of the cache hides what the image was built with: the solver's compiled loops.
- name: cache
  image: {{ include "hedgecast.image" . }}
  imagePullPolicy: {{ .root.Values.image.pullPolicy }}
  command: [sh, -c, "cp -R /var/cache/hedgecast/. /cache/ 2>/dev/null || true"]
  securityContext:
    {{- include "hedgecast.containerSecurity" . | nindent 4 }}
  resources:
    requests: {cpu: 50m, memory: 64Mi}
    limits: {memory: 256Mi}
  volumeMounts:
    - {name: cache, mountPath: /cache}
{{- end }}

{{- /* A probe of Ray's own processes on this node. It needs no token. */ -}}
{{- define "hedgecast.rayProbe" -}}
httpGet:
  path: /api/healthz
  port: 52365
{{- end }}

{{- /* Called with root, study, workload, component, group (its values), gpu, jobs. */ -}}
{{- define "hedgecast.rayPod" -}}
{{- $values := .root.Values -}}
{{- $gateway := eq .component "gateway" -}}
{{- $serving := eq .workload "serve" -}}
{{- $drain := int $values.gateway.settings.drainSeconds -}}
{{- /* After SIGTERM Ray moves replicas to another pod if there is one by then: for so long, in seconds. A
       gateway has handed over in its preStop hook by then. */ -}}
{{- $moving := index (dict "gateway" 20 "denoiser" 60 "solver" 60) (trimPrefix "canary-" .component) -}}
metadata:
  labels:
    {{- include "hedgecast.podLabels" . | nindent 4 }}
  annotations:
    {{- if $serving }}
    # Another model or setting makes another cluster, which takes over when it serves.
    hedgecast.io/model: {{ .study.model | quote }}
    checksum/settings: {{ include "hedgecast.settings" . | sha256sum }}
    {{- end }}
    {{- with $values.podAnnotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
    cluster-autoscaler.kubernetes.io/safe-to-evict: {{ ternary "false" "true" (eq .component "head") | quote }}
spec:
  {{- /* The head's is KubeRay's own where the autoscaler in it asks the cluster's API. */}}
  {{- if not (and (eq .component "head") $values.autoscaler.enabled) }}
  serviceAccountName: {{ include "hedgecast.serviceAccountName" .root }}
  automountServiceAccountToken: false
  {{- end }}
  enableServiceLinks: false
  securityContext:
    {{- include "hedgecast.podSecurity" .root | nindent 4 }}
  {{- with $values.image.pullSecrets }}
  imagePullSecrets:
    {{- range . }}
    - name: {{ . }}
    {{- end }}
  {{- end }}
  {{- with .group.nodeSelector }}
  nodeSelector:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .group.tolerations }}
  tolerations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  topologySpreadConstraints:
    - maxSkew: 1
      topologyKey: kubernetes.io/hostname
      whenUnsatisfiable: ScheduleAnyway
      labelSelector:
        matchLabels:
          {{- include "hedgecast.selectorLabels" . | nindent 10 }}
    - maxSkew: 1
      topologyKey: topology.kubernetes.io/zone
      whenUnsatisfiable: ScheduleAnyway
      labelSelector:
        matchLabels:
          {{- include "hedgecast.selectorLabels" . | nindent 10 }}
  {{- with $moving }}
  terminationGracePeriodSeconds: {{ add . 15 (ternary $drain 0 $gateway) }}
  {{- end }}
  initContainers:
    {{- include "hedgecast.cacheContainer" . | nindent 4 }}
  containers:
    - name: ray
      image: {{ include "hedgecast.image" . }}
      imagePullPolicy: {{ $values.image.pullPolicy }}
      {{- if $serving }}
      envFrom:
        - configMapRef:
            name: {{ include "hedgecast.fullname" .root }}-{{ .study.name }}-settings
      {{- end }}
      env:
        {{- include "hedgecast.environment" (dict "root" .root "threads" .group.threads "moving" $moving) | trim | nindent 8 }}
      {{- if $gateway }}
      ports:
        - {name: grpc, containerPort: {{ $values.gateway.port }}}
        - {name: health, containerPort: {{ $values.gateway.healthPort }}}
        {{- if $values.monitoring.enabled }}
        - {name: decisions, containerPort: {{ $values.monitoring.port }}}
        {{- end }}
      lifecycle:
        preStop:
          exec:
            # No new calls, and those under way finish, before Ray is told to end.
            command: [sh, -c, "touch /run/hedgecast/drain && sleep {{ add $drain 5 }}"]
      {{- end }}
      securityContext:
        {{- include "hedgecast.containerSecurity" . | nindent 8 }}
      resources:
        requests:
          {{- toYaml .group.resources.requests | nindent 10 }}
          {{- if .gpu }}
          {{ $values.denoiser.gpuResource }}: 1
          {{- end }}
        limits:
          {{- toYaml .group.resources.limits | nindent 10 }}
          {{- if .gpu }}
          {{ $values.denoiser.gpuResource }}: 1
          {{- end }}
      livenessProbe:
        {{- include "hedgecast.rayProbe" . | nindent 8 }}
        initialDelaySeconds: 30
        periodSeconds: 10
        timeoutSeconds: 5
        failureThreshold: 12
      readinessProbe:
        {{- if $gateway }}
        grpc:
          port: {{ $values.gateway.healthPort }}
        {{- else }}
        {{- include "hedgecast.rayProbe" . | nindent 8 }}
        {{- end }}
        initialDelaySeconds: 5
        periodSeconds: 5
        timeoutSeconds: 5
        failureThreshold: 2
      volumeMounts:
        - {name: scratch, mountPath: /tmp}
        - {name: cache, mountPath: /var/cache/hedgecast}
        - {name: storage, mountPath: /var/lib/hedgecast}
        {{- if and .study.file (not $serving) }}
        - {name: studies, mountPath: /etc/hedgecast/studies, readOnly: true}
        {{- end }}
        {{- if $gateway }}
        - {name: run, mountPath: /run/hedgecast}
        {{- if $values.gateway.audit.enabled }}
        - {name: audit, mountPath: /var/log/hedgecast}
        {{- end }}
        {{- if $values.gateway.tls.enabled }}
        - {name: tls, mountPath: /etc/hedgecast/tls, readOnly: true}
        {{- end }}
        {{- if $values.gateway.tokens.enabled }}
        - {name: tokens, mountPath: /etc/hedgecast/tokens, readOnly: true}
        {{- end }}
        {{- if include "hedgecast.access" . }}
        - {name: access, mountPath: /etc/hedgecast/access, readOnly: true}
        {{- end }}
        {{- end }}
  volumes:
    {{- include "hedgecast.commonVolumes" .root | nindent 4 }}
    {{- if and .study.file (not $serving) }}
    - name: studies
      configMap:
        name: {{ include "hedgecast.fullname" .root }}-studies
    {{- end }}
    {{- if $gateway }}
    - name: run
      emptyDir: {medium: Memory, sizeLimit: 1Mi}
    {{- if $values.gateway.audit.enabled }}
    - name: audit
      emptyDir:
        sizeLimit: {{ $values.gateway.audit.size }}
    {{- end }}
    {{- if $values.gateway.tls.enabled }}
    - name: tls
      secret:
        secretName: {{ include "hedgecast.tlsSecretName" . }}
        defaultMode: 0440
    {{- end }}
    {{- if $values.gateway.tokens.enabled }}
    - name: tokens
      secret:
        secretName: {{ $values.gateway.tokens.secretName }}
        defaultMode: 0440
    {{- end }}
    {{- if include "hedgecast.access" . }}
    - name: access
      configMap:
        name: {{ include "hedgecast.fullname" .root }}-{{ .study.name }}-access
    {{- end }}
    {{- end }}
{{- end }}

{{- define "hedgecast.commonVolumes" -}}
- name: scratch
  emptyDir:
    sizeLimit: {{ .Values.storage.scratchSize }}
- name: cache
  emptyDir:
    sizeLimit: {{ .Values.storage.cacheSize }}
- name: storage
  {{- if .Values.storage.enabled }}
  persistentVolumeClaim:
    claimName: {{ include "hedgecast.claimName" . }}
  {{- else }}
  emptyDir:
    sizeLimit: {{ .Values.storage.cacheSize }}
  {{- end }}
{{- end }}

{{- /* What clusters that serve and clusters of jobs have alike. Called with root, study, workload. */ -}}
{{- define "hedgecast.rayCluster" -}}
rayVersion: {{ .root.Values.rayVersion | quote }}
{{- if .root.Values.rayAuth.enabled }}
authOptions:
  mode: token
  secretName: {{ .root.Values.rayAuth.secretName }}
{{- end }}
{{- if .root.Values.autoscaler.enabled }}
enableInTreeAutoscaling: true
autoscalerOptions:
  version: v2
  upscalingMode: Default
  idleTimeoutSeconds: {{ .root.Values.autoscaler.idleTimeoutSeconds }}
  imagePullPolicy: {{ .root.Values.image.pullPolicy }}
  resources:
    {{- toYaml .root.Values.autoscaler.resources | nindent 4 }}
  securityContext:
    {{- include "hedgecast.containerSecurity" . | nindent 4 }}
  volumeMounts:
    - {name: scratch, mountPath: /tmp}
{{- end }}
headGroupSpec:
  rayStartParams:
    # Nothing of ours is scheduled where Ray keeps its books.
    num-cpus: "0"
    dashboard-host: 0.0.0.0
  template:
    {{- include "hedgecast.rayPod" (merge (dict "component" "head" "group" .root.Values.head) .) | nindent 4 }}
{{- end }}
