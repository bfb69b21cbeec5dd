{{/* The name of all objects. */}}
{{- define "pinkeeper.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* Names a role outside of namespaces. No namespace and no release has a colon in its name, so the roles
of two releases never share a name. */}}
{{- define "pinkeeper.clusterName" -}}
{{- printf "pinkeeper:%s:%s" .Release.Namespace (include "pinkeeper.fullname" .) -}}
{{- end -}}

{{- define "pinkeeper.selectorLabels" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "pinkeeper.labels" -}}
{{ include "pinkeeper.selectorLabels" . }}
app.kubernetes.io/version: {{ include "pinkeeper.label" .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ include "pinkeeper.label" (printf "%s-%s" .Chart.Name .Chart.Version) }}
{{- end -}}

{{/* A text as a label's value: a label must not contain "+", as versions may, and ends with a letter or digit. */}}
{{- define "pinkeeper.label" -}}
{{- regexReplaceAll "[^a-zA-Z0-9]+$" (. | replace "+" "_" | trunc 63) "" -}}
{{- end -}}

{{- define "pinkeeper.image" -}}
{{- printf "%s:%s" .Values.image.repository (.Values.image.tag | default (.Chart.AppVersion | replace "+" "_")) -}}
{{- end -}}

{{- define "pinkeeper.secretName" -}}
{{- .Values.existingSecret | default (printf "%s-secret" (include "pinkeeper.fullname" .)) -}}
{{- end -}}

{{/* The record: a ConfigMap that the peers create, and that names their cluster. */}}
{{- define "pinkeeper.recordName" -}}
{{- printf "%s-cluster" (include "pinkeeper.fullname" .) -}}
{{- end -}}

{{/* The requirements of Pod Security "restricted" for a container, and a little more. */}}
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
