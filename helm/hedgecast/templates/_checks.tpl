{{- /* What values.schema.json cannot say: rules between values. Each message says what to do. */ -}}
{{- define "hedgecast.checks" -}}
{{- $values := .Values -}}
{{- $gateway := $values.gateway -}}
{{- if not (or $gateway.tls.enabled $gateway.allowInsecure) -}}
{{- fail "gateway.tls.enabled is false: set gateway.allowInsecure where a mesh or a proxy encrypts, or leave TLS on" -}}
{{- end -}}
{{- if and (not $gateway.tls.enabled) (ne $gateway.service.type "ClusterIP") -}}
{{- fail (printf "gateway.service.type %s without TLS: leave gateway.tls.enabled on, or keep ClusterIP behind the proxy that encrypts" $gateway.service.type) -}}
{{- end -}}
{{- if and (ne $gateway.service.type "ClusterIP") (not (or $gateway.tokens.enabled (and $gateway.tls.enabled $gateway.tls.mutual))) -}}
{{- fail (printf "gateway.service.type %s lets anybody in: turn gateway.tokens.enabled or gateway.tls.mutual on" $gateway.service.type) -}}
{{- end -}}
{{- if and (eq $gateway.service.type "LoadBalancer") (not $gateway.service.loadBalancerSourceRanges) -}}
{{- fail "gateway.service.type LoadBalancer: say in gateway.service.loadBalancerSourceRanges who may reach it" -}}
{{- end -}}
{{- if and $gateway.service.headless (ne $gateway.service.type "ClusterIP") -}}
{{- fail "gateway.service.headless goes with gateway.service.type ClusterIP only" -}}
{{- end -}}
{{- if and $gateway.tls.enabled $gateway.tls.certManager.enabled (not $gateway.tls.certManager.issuerName) -}}
{{- fail "gateway.tls.certManager.enabled: name an issuer in gateway.tls.certManager.issuerName" -}}
{{- end -}}
{{- if not (or $values.rayAuth.enabled $values.networkPolicy.enabled) -}}
{{- fail "rayAuth.enabled and networkPolicy.enabled are both off: whoever reaches Ray's ports can run code; leave one on" -}}
{{- end -}}
{{- if and $values.redis.enabled (not $values.redis.address) -}}
{{- fail "redis.enabled: give HOST:PORT in redis.address" -}}
{{- end -}}
{{- if and (eq $values.registry.mode "external") (not $values.registry.externalUrl) -}}
{{- fail "registry.mode external: give the address of the MLflow server in registry.externalUrl" -}}
{{- end -}}
{{- if and (ne $values.registry.mode "external") (not $values.storage.enabled) (not (and (eq $values.registry.mode "server") $values.registry.server.databaseSecretName $values.registry.server.artifacts)) -}}
{{- fail (printf "registry.mode %s keeps models on the volume: leave storage.enabled on, or give the server a database and registry.server.artifacts, or take an external one" $values.registry.mode) -}}
{{- end -}}
{{- if le (int $values.serve.clusterDeletionDelaySeconds) (int $gateway.settings.drainSeconds) -}}
{{- fail "serve.clusterDeletionDelaySeconds must be above gateway.settings.drainSeconds: requests under way would be cut off" -}}
{{- end -}}
{{- if and $values.jobs.generate.enabled (not (and $values.jobs.generate.contexts $values.jobs.generate.output)) -}}
{{- fail "jobs.generate.enabled: give jobs.generate.contexts and jobs.generate.output" -}}
{{- end -}}
{{- if and $values.monitoring.podMonitor $values.monitoring.serviceMonitor -}}
{{- fail "monitoring.podMonitor and monitoring.serviceMonitor would both count each gateway: take one" -}}
{{- end -}}
{{- if and (or $values.monitoring.podMonitor $values.monitoring.serviceMonitor) (not $values.monitoring.enabled) -}}
{{- fail "monitoring.enabled is false: a monitor would find no metrics" -}}
{{- end -}}
{{- $ports := list (int $gateway.port) (int $gateway.healthPort) -}}
{{- if $values.monitoring.enabled -}}{{- $ports = append $ports (int $values.monitoring.port) -}}{{- end -}}
{{- if ne (len $ports) (len (uniq $ports)) -}}
{{- fail "gateway.port, gateway.healthPort and monitoring.port must differ" -}}
{{- end -}}
{{- $outcomes := $gateway.outcomes.enabled -}}
{{- if and $outcomes (ne $values.serve.upgradeStrategy "None") -}}
{{- fail "gateway.outcomes.enabled: a folder of outcomes has one gateway at a time, and a second cluster's would wait for it for ever: set serve.upgradeStrategy None" -}}
{{- end -}}
{{- if and (gt (float64 $gateway.settings.canaryShare) 0.0) (not $outcomes) -}}
{{- fail "gateway.settings.canaryShare: shadows are kept with the outcomes: turn gateway.outcomes.enabled on" -}}
{{- end -}}
{{- if and (not $values.denoiser.apart) (eq $values.denoiser.accelerator "gpu") -}}
{{- fail "denoiser.apart is false and denoiser.accelerator gpu: solvers have CPUs alone; give denoisers pods of their own, or let solvers draw on CPUs" -}}
{{- end -}}
{{- $names := list -}}
{{- range $study := $values.studies -}}
{{- $names = append $names $study.name -}}
{{- if and $study.study $study.file -}}
{{- fail (printf "study %s: give study (a shipped one) or file (its text), not both" $study.name) -}}
{{- end -}}
{{- if and $study.program (not $study.file) -}}
{{- fail (printf "study %s: program is read by a study's file; give file too" $study.name) -}}
{{- end -}}
{{- if and $study.canary (eq (float64 $gateway.settings.canaryShare) 0.0) -}}
{{- fail (printf "study %s: canary answers nothing: say in gateway.settings.canaryShare which share of the decisions it answers too" $study.name) -}}
{{- end -}}
{{- if and $study.canary (ne (first (splitList "@" $study.canary)) (first (splitList "@" $study.model))) -}}
{{- fail (printf "study %s: canary %s must be another version of model %s" $study.name $study.canary $study.model) -}}
{{- end -}}
{{- $gateways := include "hedgecast.scale" (dict "root" $ "study" $study "component" "gateway") | fromYaml -}}
{{- if and $outcomes (gt (int $gateways.replicas) 1) -}}
{{- fail (printf "study %s: gateway.outcomes.enabled: a folder of outcomes has one gateway at a time, not %d: set gateway.replicas to 1" $study.name (int $gateways.replicas)) -}}
{{- end -}}
{{- $jobs := $values.jobs -}}
{{- if and (or $jobs.train.enabled $jobs.backtest.enabled $jobs.distill.enabled $jobs.generate.enabled $values.retraining.enabled) (not (or $study.study $study.file)) -}}
{{- fail (printf "study %s: jobs need study (a shipped one) or file (its text)" $study.name) -}}
{{- end -}}
{{- range $component := list "denoiser" "solver" -}}
{{- $scale := include "hedgecast.scale" (dict "root" $ "study" $study "component" $component) | fromYaml -}}
{{- if lt (int $scale.maxReplicas) (int $scale.replicas) -}}
{{- fail (printf "study %s: %s.maxReplicas %d is less than replicas %d" $study.name $component (int $scale.maxReplicas) (int $scale.replicas)) -}}
{{- end -}}
{{- end -}}
{{- $longest := printf "%s-%s-generate-%s" (include "hedgecast.fullname" $) $study.name $jobs.run -}}
{{- if gt (len $longest) 47 -}}
{{- fail (printf "%s: names of Ray's objects have at most 47 characters, this one would have %d: shorten the release's name, fullnameOverride, the study's name or jobs.run" $longest (len $longest)) -}}
{{- end -}}
{{- if not (regexMatch "^[a-z]([-a-z0-9]*[a-z0-9])?$" $longest) -}}
{{- fail (printf "%s: names of Ray's objects are lower-case letters, digits and hyphens and begin with a letter: set fullnameOverride" $longest) -}}
{{- end -}}
{{- end -}}
{{- if ne (len $names) (len (uniq $names)) -}}
{{- fail (printf "studies: two have one name: %s" (join ", " $names)) -}}
{{- end -}}
{{- end }}
