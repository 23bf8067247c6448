{{/* The start of all names. It has "geminga" in it whatever is cut off: alert rules know jobs, which are named like Services, by that. */}}
{{- define "geminga.fullname" -}}
{{- $release := .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- if contains "geminga" $release -}}
{{- $release -}}
{{- else -}}
{{- printf "%s-geminga" (.Release.Name | trunc 32 | trimSuffix "-") -}}
{{- end -}}
{{- end -}}

{{/* What selects the pods of one component: (dict "root" $ "component" "bookie"). Never changes. */}}
{{- define "geminga.selector" -}}
app.kubernetes.io/name: geminga
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{/* Labels of an object of one component. */}}
{{- define "geminga.labels" -}}
{{ include "geminga.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version }}
{{- end -}}

{{- define "geminga.image" -}}
{{- $image := .Values.image -}}
{{- if $image.digest -}}
{{- printf "%s@%s" $image.repository $image.digest -}}
{{- else -}}
{{- printf "%s:%s" $image.repository ($image.tag | default .Chart.AppVersion) -}}
{{- end -}}
{{- end -}}

{{/* The name by which one pod of a StatefulSet is found: (dict "root" $ "component" "bookie" "pod" "$(POD_NAME)"). */}}
{{- define "geminga.podHost" -}}
{{ .pod }}.{{ include "geminga.fullname" .root }}-{{ .component }}.{{ .root.Release.Namespace }}.svc.{{ .root.Values.clusterDomain }}
{{- end -}}

{{/* Where the metadata is: our own etcd, or the one that was named. */}}
{{- define "geminga.metastore" -}}
{{- $hosts := .Values.externalEtcd.endpoints -}}
{{- if .Values.etcd.enabled -}}
{{- $hosts = list -}}
{{- range $ordinal := until (int .Values.etcd.replicas) -}}
{{- $pod := printf "%s-etcd-%d" (include "geminga.fullname" $) $ordinal -}}
{{- $hosts = append $hosts (printf "%s:2379" (include "geminga.podHost" (dict "root" $ "component" "etcd" "pod" $pod))) -}}
{{- end -}}
{{- end -}}
{{ ternary "https" "etcd" (or (and .Values.etcd.enabled .Values.tls.enabled) .Values.externalEtcd.tls.enabled) }}://{{ join "," $hosts }}/{{ .Values.clusterName }}
{{- end -}}

{{/* What must hold before anything is rendered, as sentences. */}}
{{- define "geminga.check" -}}
{{- if not (or .Values.insecure .Values.tls.enabled) -}}
{{- fail "without tls.enabled=true nothing is encrypted or authenticated: whoever reaches a port may read, write and delete. If only trusted clients do, say so with insecure=true" -}}
{{- end -}}
{{- include "geminga.checkTls" . -}}
{{- if and .Values.etcd.enabled .Values.externalEtcd.endpoints -}}
{{- fail "two places for the metadata: set etcd.enabled=false to use externalEtcd.endpoints, or leave these empty" -}}
{{- end -}}
{{- if and (not .Values.etcd.enabled) (not .Values.externalEtcd.endpoints) -}}
{{- fail "nowhere to keep the metadata: set externalEtcd.endpoints to HOST:PORT of your etcd, or etcd.enabled=true" -}}
{{- end -}}
{{- include "geminga.checkMembers" . -}}
{{- if and .Values.zones.enabled (eq .Values.zones.podLabel "topology.kubernetes.io/zone") (semverCompare "<1.35.0-0" .Capabilities.KubeVersion.Version) -}}
{{- fail (printf "Kubernetes %s does not give pods the label topology.kubernetes.io/zone of their node (1.35 does): have an admission policy copy it, and name its label in zones.podLabel, or set zones.enabled=false" .Capabilities.KubeVersion.Version) -}}
{{- end -}}
{{- with .Values.zones -}}
{{- if and (not .enabled) (ne (int .minAck) 1) -}}
{{- fail "zones.enabled is false, so zones.minAck would have no effect: set it, or leave zones.minAck out" -}}
{{- end -}}
{{- if gt (int .minAck) (int .min) -}}
{{- fail (printf "zones.minAck, %d, is more than zones.min, %d: acknowledgements are in no more zones than copies" (int .minAck) (int .min)) -}}
{{- end -}}
{{- end -}}
{{- $kafka := .Values.serving.kafka -}}
{{- if and $kafka.external.enabled (not $kafka.enabled) -}}
{{- fail "serving.kafka.external.enabled needs serving.kafka.enabled" -}}
{{- end -}}
{{- if $kafka.external.enabled -}}
{{- if not $kafka.external.host -}}
{{- fail "serving.kafka.external.host is empty: it is what Kafka clients outside are told to connect to, such as broker-{ordinal}.kafka.example.com" -}}
{{- end -}}
{{- if and (eq $kafka.external.type "LoadBalancer") (not (contains "{ordinal}" $kafka.external.host)) -}}
{{- fail "serving.kafka.external.host must contain {ordinal}: each broker has a load balancer, and an address, of its own" -}}
{{- end -}}
{{- end -}}
{{- with .Values.objectStore -}}
{{- if and (not .url) (or .endpoint .credentialsSecret .caSecret .env .pathStyle) -}}
{{- fail "objectStore.url is empty, so nothing else of objectStore would have an effect: set it, or leave the rest out" -}}
{{- end -}}
{{- end -}}
{{- with .Values.serving.autoscaling -}}
{{- if and .enabled (lt (int .maxReplicas) (int .minReplicas)) -}}
{{- fail "serving.autoscaling.maxReplicas is less than minReplicas" -}}
{{- end -}}
{{- if and .enabled (not .cpuUtilization) (not .metric.name) -}}
{{- fail "serving.autoscaling needs something to go by: cpuUtilization, or metric.name" -}}
{{- end -}}
{{- end -}}
{{- with .Values.bookie -}}
{{- $limit := toString .resources.limits.memory -}}
{{- $least := add 256 (mul 288 (int .disks)) -}}
{{- if regexMatch "^[0-9]+(Mi|Gi)$" $limit -}}
{{- $mib := int (regexFind "^[0-9]+" $limit) -}}
{{- if hasSuffix "Gi" $limit -}}{{- $mib = mul $mib 1024 -}}{{- end -}}
{{- if lt (int $mib) (int $least) -}}
{{- fail (printf "bookie.resources.limits.memory is %s, and %d disk(s) take up to %dMi: give it that, or more" $limit (int .disks) (int $least)) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* The etcd that is there has so many members, whatever its StatefulSet has been scaled to meanwhile. */}}
{{- define "geminga.checkMembers" -}}
{{- if .Values.etcd.enabled -}}
{{- with lookup "apps/v1" "StatefulSet" .Release.Namespace (printf "%s-etcd" (include "geminga.fullname" .)) -}}
{{- range (index .spec.template.spec.containers 0).args -}}
{{- if hasPrefix "--initial-cluster=" . -}}
{{- $members := splitList "," . | len -}}
{{- if ne $members (int $.Values.etcd.replicas) -}}
{{- fail (printf "etcd has %d members, and etcd.replicas=%d would not make them more or fewer but break it: set etcd.replicas=%d" $members (int $.Values.etcd.replicas) $members) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Which brokers clients outside have a name for, as a list: where they begin, if by a name of its own, and each that there can be. */}}
{{- define "geminga.externalBrokers" -}}
{{- if contains "{ordinal}" .Values.serving.kafka.external.host }}
- bootstrap
{{- range $ordinal := until (int (include "geminga.mostBrokers" .)) }}
- {{ $ordinal | quote }}
{{- end }}
{{- else }}
- any
{{- end }}
{{- end -}}

{{/* Whether a Service of ours keeps the addresses of clients outside: (a value with type and externalTrafficPolicy). Through load
balancers, which know the nodes with a broker, it does; a client that may choose any node needs one that sends it on. */}}
{{- define "geminga.trafficPolicy" -}}
{{- .externalTrafficPolicy | default (ternary "Local" "Cluster" (eq .type "LoadBalancer")) -}}
{{- end -}}

{{/* Most brokers that there can be. */}}
{{- define "geminga.mostBrokers" -}}
{{- if .Values.serving.autoscaling.enabled -}}{{ .Values.serving.autoscaling.maxReplicas }}{{- else -}}{{ .Values.serving.replicas }}{{- end -}}
{{- end -}}

{{/* What every pod is allowed: nothing beyond its own files. */}}
{{- define "geminga.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
fsGroupChangePolicy: OnRootMismatch
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{- define "geminga.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}

{{/* Names that a pod has of itself, for $(…) in its arguments. */}}
{{- define "geminga.podEnv" -}}
- name: POD_NAME
  valueFrom:
    fieldRef:
      fieldPath: metadata.name
{{- end -}}

{{/* A variable, so that commands in the container find the metadata as the server does. */}}
{{- define "geminga.metastoreEnv" -}}
- name: GEMINGA_METASTORE
  value: {{ include "geminga.metastore" . | trim | quote }}
{{- end -}}

{{- define "geminga.zoneEnv" -}}
{{- if .Values.zones.enabled -}}
- name: POD_ZONE
  valueFrom:
    fieldRef:
      fieldPath: metadata.labels[{{ .Values.zones.podLabel | squote }}]
{{- end -}}
{{- end -}}

{{/* Variables and secrets of the object store; where it is, too, so that `cluster doctor` in the container looks at it. */}}
{{- define "geminga.objectStoreEnv" -}}
{{- if .Values.objectStore.url -}}
{{- range $name, $value := .Values.objectStore.env }}
- name: {{ $name }}
  value: {{ $value | quote }}
{{- end }}
- name: GEMINGA_OBJECT_STORE
  value: {{ .Values.objectStore.url | quote }}
{{- with .Values.objectStore.endpoint }}
- name: GEMINGA_OBJECT_STORE_ENDPOINT
  value: {{ . | quote }}
{{- end }}
{{- if .Values.objectStore.pathStyle }}
- name: GEMINGA_OBJECT_STORE_PATH_STYLE
  value: "true"
{{- end }}
{{- if .Values.objectStore.caSecret }}
# The authorities of the image, and those of the Secret.
- name: SSL_CERT_FILE
  value: /etc/ssl/certs/ca-certificates.crt
- name: SSL_CERT_DIR
  value: /etc/geminga-store
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "geminga.objectStoreEnvFrom" -}}
{{- if and .Values.objectStore.url .Values.objectStore.credentialsSecret }}
envFrom:
  - secretRef:
      name: {{ .Values.objectStore.credentialsSecret }}
{{- end -}}
{{- end -}}

{{- define "geminga.objectStoreMount" -}}
{{- if and .Values.objectStore.url .Values.objectStore.caSecret -}}
- {name: store-authorities, mountPath: /etc/geminga-store, readOnly: true}
{{- end -}}
{{- end -}}

{{- define "geminga.objectStoreVolume" -}}
{{- if and .Values.objectStore.url .Values.objectStore.caSecret -}}
- name: store-authorities
  secret:
    secretName: {{ .Values.objectStore.caSecret }}
    items: [{key: ca.crt, path: ca.crt}]
{{- end -}}
{{- end -}}

{{/* Pods of one component on hosts, and zones, of their own: (dict "root" $ "component" "bookie"). */}}
{{- define "geminga.spread" -}}
- maxSkew: 1
  topologyKey: kubernetes.io/hostname
  whenUnsatisfiable: {{ .root.Values.spread.hosts }}
  labelSelector:
    matchLabels: {{- include "geminga.selector" . | nindent 6 }}
{{- if .root.Values.zones.enabled }}
- maxSkew: 1
  topologyKey: topology.kubernetes.io/zone
  whenUnsatisfiable: {{ .root.Values.spread.zones }}
  labelSelector:
    matchLabels: {{- include "geminga.selector" . | nindent 6 }}
{{- end }}
{{- end -}}

{{/* Where pods of a component may run: (dict "of" .Values.bookie). */}}
{{- define "geminga.scheduling" -}}
{{- with .of.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .of.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .of.affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .of.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- end -}}

{{/* A probe of the http listener: (dict "path" "/readyz" "port" "http" "tls" .Values.tls.enabled). */}}
{{- define "geminga.probe" -}}
httpGet:
  path: {{ .path }}
  port: {{ .port }}
  {{- if .tls }}
  scheme: HTTPS
  {{- end }}
periodSeconds: {{ .period }}
timeoutSeconds: 5
failureThreshold: {{ .failures }}
{{- end -}}
