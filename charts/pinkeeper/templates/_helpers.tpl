{{/* The name of everything. */}}
{{- define "pinkeeper.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* Objects outside of namespaces must not meet those of another release of the same name. */}}
{{- define "pinkeeper.clusterName" -}}
{{- printf "%s-%s" .Release.Namespace (include "pinkeeper.fullname" .) -}}
{{- end -}}

{{- define "pinkeeper.selectorLabels" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "pinkeeper.labels" -}}
{{ include "pinkeeper.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{- define "pinkeeper.image" -}}
{{- printf "%s:%s" .Values.image.repository (.Values.image.tag | default .Chart.AppVersion) -}}
{{- end -}}

{{- define "pinkeeper.secretName" -}}
{{- .Values.existingSecret | default (printf "%s-secret" (include "pinkeeper.fullname" .)) -}}
{{- end -}}

{{/* The record: a ConfigMap that the peers make and that says which cluster this is. */}}
{{- define "pinkeeper.recordName" -}}
{{- printf "%s-cluster" (include "pinkeeper.fullname" .) -}}
{{- end -}}

{{/* What Pod Security "restricted" asks of a container, and a little more. */}}
{{- define "pinkeeper.containerSecurityContext" -}}
allowPrivilegeEscalation: false
capabilities: {drop: [ALL]}
readOnlyRootFilesystem: true
{{- end -}}

{{- define "pinkeeper.podSecurityContext" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
seccompProfile: {type: RuntimeDefault}
{{- end -}}
