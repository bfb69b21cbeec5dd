{{/* How the programs in the pod are told what to do: arguments, and the peer's configuration file. */}}

{{- define "pinkeeper.kuboArgs" -}}
- --swarm-port={{ .Values.kubo.swarmPort }}
{{- if .Values.kubo.private }}
- --private
{{- end }}
{{- with .Values.kubo.storageMax }}
- --storage-max={{ . }}
{{- end }}
{{- end -}}

{{- define "pinkeeper.runArgs" -}}
- run
- --config=/etc/pinkeeper/config.yaml
- --release={{ include "pinkeeper.fullname" . }}
- --default-replicas={{ .Values.defaultReplicas }}
{{- end -}}

{{- define "pinkeeper.config" -}}
data_folder: /data/raft
ledger_folder: /data/ipfs
secret_file: /etc/pinkeeper-secret/cluster-secret
daemon: http://127.0.0.1:5001
pin_stall_seconds: {{ .Values.pinStallSeconds }}
raft:
  heartbeat_ms: {{ .Values.raft.heartbeatMilliseconds }}
  election_min_ms: {{ .Values.raft.electionMinMilliseconds }}
  election_max_ms: {{ .Values.raft.electionMaxMilliseconds }}
log:
  level: {{ .Values.logging.level | quote }}
  format: {{ .Values.logging.format }}
{{- end -}}
