{{/* How daemons are reached from outside: their Services' ports, and the addresses that they announce. */}}

{{/* A private swarm uses TCP only. */}}
{{- define "pinkeeper.swarmProtocols" -}}
{{- if .Values.kubo.swarmKey.secretName -}}["TCP"]{{- else -}}{{ toJson .Values.swarm.service.protocols }}{{- end -}}
{{- end -}}

{{- define "pinkeeper.swarmServicePort" -}}
{{- .Values.swarm.service.port | default .Values.kubo.swarmPort -}}
{{- end -}}

{{- define "pinkeeper.nodePort" -}}
{{- $ports := .service.nodePorts -}}
{{- if $ports -}}
{{- if le (len $ports) .ordinal -}}
{{- fail (printf "swarm.service.nodePorts: has %d ports, and pod %d needs one too" (len $ports) .ordinal) -}}
{{- end -}}
{{- index $ports .ordinal -}}
{{- else -}}
{{- if not .service.nodePortBase -}}
{{- fail "swarm.service.nodePortBase: a NodePort needs it, or nodePorts, since daemons tell others their ports" -}}
{{- end -}}
{{- add .service.nodePortBase .ordinal -}}
{{- end -}}
{{- end -}}

{{/* A host as the beginning of a multiaddr. */}}
{{- define "pinkeeper.host" -}}
{{- if contains ":" . -}}ip6/{{ . }}{{- else if regexMatch "^[0-9.]+$" . -}}ip4/{{ . }}{{- else -}}dns/{{ . }}{{- end -}}
{{- end -}}

{{/* Comma-separated templates of addresses; `pinkeeper kubo` expands them for each pod. */}}
{{- define "pinkeeper.announce" -}}
{{- $protocols := include "pinkeeper.swarmProtocols" . | fromJsonArray -}}
{{- $service := .Values.swarm.service -}}
{{- $doors := list -}}
{{- with .Values.swarm.hostPort -}}
{{- $doors = append $doors (list "{node}" (toString .)) -}}
{{- end -}}
{{- $port := include "pinkeeper.swarmServicePort" . -}}
{{- if eq $service.type "NodePort" -}}
{{- $port = printf "{%d+ordinal}" (int $service.nodePortBase) -}}
{{- if $service.nodePorts -}}
{{- $port = printf "{%s}" (join "|" $service.nodePorts) -}}
{{- end -}}
{{- $doors = append $doors (list "{node}" $port) -}}
{{- end -}}
{{- if $service.type -}}
{{- $each := list -}}
{{- range $service.addresses -}}
{{- $host := include "pinkeeper.host" . -}}
{{- if contains "{ordinal}" $host -}}
{{- $doors = append $doors (list $host $port) -}}
{{- else -}}
{{- $each = append $each $host -}}
{{- end -}}
{{- end -}}
{{- if $each -}}
{{- $doors = append $doors (list (printf "{%s}" (join "|" $each)) $port) -}}
{{- end -}}
{{- end -}}
{{- $addresses := list -}}
{{- range $door := $doors -}}
{{- range $protocols -}}
{{- if eq . "TCP" -}}
{{- $addresses = append $addresses (printf "/%s/tcp/%s" (index $door 0) (index $door 1)) -}}
{{- else -}}
{{- $addresses = append $addresses (printf "/%s/udp/%s/quic-v1" (index $door 0) (index $door 1)) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- concat $addresses .Values.swarm.announce | join "," -}}
{{- end -}}

{{- define "pinkeeper.ipFamilies" -}}
{{- with .Values.ipFamilyPolicy }}
ipFamilyPolicy: {{ . }}
{{- end }}
{{- with .Values.ipFamilies }}
ipFamilies: {{ toJson . }}
{{- end }}
{{- end -}}
