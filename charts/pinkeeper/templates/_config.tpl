{{/* Configuration of the programs in the pod: arguments, and the peer's configuration file. */}}

{{- define "pinkeeper.kuboArgs" -}}
- --swarm-port={{ .Values.kubo.swarmPort }}
{{- if .Values.kubo.private }}
- --private
{{- end }}
{{- with .Values.kubo.storageMax }}
- --storage-max={{ . }}
{{- end }}
{{- with include "pinkeeper.announce" . }}
- {{ printf "--announce=%s" . | toJson }}
{{- end }}
{{- with .Values.kubo.config }}
{{- /* Kubernetes would replace $(NAME). */}}
- {{ printf "--config=%s" (toJson .) | replace "$(" "$$(" | toJson }}
{{- end }}
{{- if .Values.kubo.swarmKey.secretName }}
- --swarm-key-file=/etc/pinkeeper-swarm/swarm.key
{{- end }}
{{- end -}}

{{- define "pinkeeper.runArgs" -}}
- run
- --config=/etc/pinkeeper/config.yaml
- --release={{ include "pinkeeper.fullname" . }}
- --default-replicas={{ .Values.defaultReplicas }}
- --max-deleted={{ .Values.deletionGuard.deleted.contents }}
- --max-deleted-percent={{ .Values.deletionGuard.deleted.percent }}
- --max-missing={{ .Values.deletionGuard.missing.contents }}
- --max-missing-percent={{ .Values.deletionGuard.missing.percent }}
{{- end -}}

{{- define "pinkeeper.config" -}}
data_dir: /data/raft
ledger_dir: /data/ipfs/ledger
secret_file: /etc/pinkeeper-secret/cluster-secret
ipfs_api: http://127.0.0.1:5001
# On the same volume as the daemon's repository, which the peer does not see.
ipfs_path: /data/ipfs/ledger
{{- with .Values.rest.hosts }}
rest_hosts: {{ toJson . }}
{{- end }}
heartbeat_ms: {{ .Values.raft.heartbeatMilliseconds }}
election_min_ms: {{ .Values.raft.electionMinMilliseconds }}
election_max_ms: {{ .Values.raft.electionMaxMilliseconds }}
pin_stall_timeout: {{ .Values.pinStallTimeout }}
concurrent_pins: {{ .Values.concurrentPins }}
gc_watermark: {{ .Values.gc.watermarkPercent }}
gc_pause: {{ .Values.gc.pause }}
gc_timeout: {{ .Values.gc.timeout }}
move_after: {{ .Values.movement.after }}
move_zone_after: {{ .Values.movement.zoneAfter }}
log_level: {{ .Values.logging.level | quote }}
log_format: {{ .Values.logging.format }}
{{- end -}}
