{{- /* Names and labels. Selectors hold nothing that an upgrade changes. */ -}}

{{- define "hedgecast.name" -}}
{{- .Values.nameOverride | default .Chart.Name | trunc 40 | trimSuffix "-" -}}
{{- end }}

{{- define "hedgecast.fullname" -}}
{{- $name := include "hedgecast.name" . -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride -}}
{{- else if contains $name .Release.Name -}}
{{- .Release.Name -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name -}}
{{- end -}}
{{- end }}

{{- /* Called with root, component, and for what belongs to one study: study, workload. */ -}}
{{- define "hedgecast.selectorLabels" -}}
app.kubernetes.io/name: {{ include "hedgecast.name" .root }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
{{- with .component }}
app.kubernetes.io/component: {{ . }}
{{- end }}
{{- with .study }}
hedgecast.io/study: {{ .name }}
{{- end }}
{{- with .workload }}
hedgecast.io/workload: {{ . }}
{{- end }}
{{- end }}

{{- define "hedgecast.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{ include "hedgecast.selectorLabels" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
{{- with .root.Values.labels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- /* Of pods: without versions, which would start a new cluster where nothing else has changed. */ -}}
{{- define "hedgecast.podLabels" -}}
{{ include "hedgecast.selectorLabels" . }}
{{- with .root.Values.labels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "hedgecast.serviceAccountName" -}}
{{ include "hedgecast.fullname" . }}
{{- end }}

{{- /* Called with root and gpu. */ -}}
{{- define "hedgecast.image" -}}
{{- $image := .root.Values.image -}}
{{- $image.registry }}{{ ternary $image.gpuRepository $image.repository (default false .gpu) }}:{{ $image.tag | default .root.Chart.AppVersion -}}
{{- end }}

{{- define "hedgecast.claimName" -}}
{{- .Values.storage.existingClaim | default (printf "%s-storage" (include "hedgecast.fullname" .)) -}}
{{- end }}

{{- /* Where models are, as --registry takes it; empty: in $HEDGECAST_HOME. */ -}}
{{- define "hedgecast.registry" -}}
{{- if eq .Values.registry.mode "server" -}}
http://{{ include "hedgecast.fullname" . }}-registry:{{ .Values.registry.server.port }}
{{- else if eq .Values.registry.mode "external" -}}
{{ .Values.registry.externalUrl }}
{{- end -}}
{{- end }}

{{- /* The study as a command takes it: called with root and study. */ -}}
{{- define "hedgecast.studyArgument" -}}
{{- if .study.file -}}/etc/hedgecast/studies/{{ .study.name }}.toml{{- else -}}{{ .study.study }}{{- end -}}
{{- end }}

{{- define "hedgecast.gatewayName" -}}
{{ include "hedgecast.fullname" .root }}-{{ .study.name }}-gateway
{{- end }}

{{- /* cert-manager writes one secret per certificate, and each gateway has a name of its own. */ -}}
{{- define "hedgecast.tlsSecretName" -}}
{{- $tls := .root.Values.gateway.tls -}}
{{- if $tls.certManager.enabled -}}{{ $tls.secretName }}-{{ .study.name }}{{- else -}}{{ $tls.secretName }}{{- end -}}
{{- end }}
