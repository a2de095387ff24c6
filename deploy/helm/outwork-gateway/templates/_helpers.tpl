{{- define "gateway.name" -}}
{{- if contains .Chart.Name .Release.Name }}{{ .Release.Name | trunc 52 | trimSuffix "-" }}{{ else }}{{ printf "%s-%s" .Release.Name .Chart.Name | trunc 52 | trimSuffix "-" }}{{ end }}
{{- end }}

{{- define "gateway.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "gateway.labels" -}}
{{ include "gateway.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{- define "gateway.image" -}}
{{- if .Values.image.digest }}{{ .Values.image.repository }}@{{ .Values.image.digest }}{{ else }}{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}{{ end }}
{{- end }}

{{- /* The gateway's file: what the owner wrote, and what the pod fixes. */ -}}
{{- define "gateway.config" -}}
{{- $fixed := dict
  "token_file" "/etc/outwork/secret/token"
  "tls" (dict "cert_file" "/etc/outwork/secret/tls.crt" "key_file" "/etc/outwork/secret/tls.key")
  "health" (dict "listen_addr" (printf "127.0.0.1:%d" (int .Values.healthPort)))
  "state_dir" "/var/lib/outwork/state"
  "ledger" (mergeOverwrite (deepCopy (.Values.config.ledger | default dict)) (dict "dir" "/var/lib/outwork/ledger"))
  "shutdown_timeout" (printf "%ds" (int .Values.shutdownTimeoutSeconds)) -}}
{{- toYaml (mergeOverwrite (deepCopy .Values.config) $fixed) -}}
{{- end }}

{{- /* What a running gateway does not take over; pods are replaced when it changes. */ -}}
{{- define "gateway.restart" -}}
{{- $config := .Values.config -}}
{{- list $config.edge $config.tunnel_id $config.ledger .Values.healthPort .Values.secretName | toJson | sha256sum -}}
{{- end }}
