{{/* What has to hold of certificates before anything is rendered, as sentences. */}}
{{- define "geminga.checkTls" -}}
{{- $tls := .Values.tls -}}
{{- $manager := $tls.certManager -}}
{{- $named := list -}}
{{- range $component, $secret := $tls.secrets -}}
{{- if $secret -}}{{- $named = append $named (printf "tls.secrets.%s" $component) -}}{{- end -}}
{{- end -}}
{{- if and (not $tls.enabled) (or $named $manager.enabled (eq $tls.clientAuth "required")) -}}
{{- fail "tls.enabled is false, so nothing else of tls would have an effect: set it, or leave the rest out" -}}
{{- end -}}
{{- if and (not $manager.enabled) (or $manager.issuerRef.name $manager.dnsNames $manager.ipAddresses) -}}
{{- fail "tls.certManager.enabled is false, so nothing else of tls.certManager would have an effect: set it, or leave the rest out" -}}
{{- end -}}
{{- if $tls.enabled -}}
{{- if and $manager.enabled $named -}}
{{- fail (printf "two sources of certificates: leave %s out, or set tls.certManager.enabled=false" (join ", " $named)) -}}
{{- end -}}
{{- if $manager.enabled -}}
{{- if not $manager.issuerRef.name -}}
{{- fail "tls.certManager.issuerRef.name is empty: name an Issuer, or a ClusterIssuer and kind, of an authority of your own" -}}
{{- end -}}
{{- if ge (int (trimSuffix "h" $manager.renewBefore)) (int (trimSuffix "h" $manager.duration)) -}}
{{- fail "tls.certManager.renewBefore is not less than duration: certificates would be replaced for ever" -}}
{{- end -}}
{{- else -}}
{{- $needed := list "serving" "bookie" -}}
{{- if .Values.etcd.enabled -}}{{- $needed = append $needed "etcd" -}}{{- end -}}
{{- if and .Values.serviceMonitor.enabled (eq $tls.clientAuth "required") -}}{{- $needed = append $needed "monitoring" -}}{{- end -}}
{{- range $component := $needed -}}
{{- if not (get $tls.secrets $component) -}}
{{- fail (printf "tls.secrets.%s is empty: name a Secret with tls.crt, tls.key and ca.crt, or have cert-manager make it by tls.certManager.enabled=true" $component) -}}
{{- end -}}
{{- end -}}
{{- if and $tls.secrets.etcd (not .Values.etcd.enabled) -}}
{{- fail "tls.secrets.etcd is for the etcd of this chart, and etcd.enabled is false: externalEtcd.tls.secret is for yours" -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- with .Values.externalEtcd.tls -}}
{{- if and $.Values.etcd.enabled .enabled -}}
{{- fail "externalEtcd.tls is for an etcd of yours, and etcd.enabled is true: that of this chart has tls.secrets.etcd, or tls.certManager" -}}
{{- end -}}
{{- if and (not .enabled) .secret -}}
{{- fail "externalEtcd.tls.enabled is false, so externalEtcd.tls.secret would have no effect: set it, or leave the Secret out" -}}
{{- end -}}
{{- if and .enabled (not .secret) (not $tls.enabled) -}}
{{- fail "externalEtcd.tls.secret is empty: name a Secret with the authority of your etcd as ca.crt" -}}
{{- end -}}
{{- if and $tls.enabled (not $.Values.etcd.enabled) (not .enabled) (not $.Values.insecure) -}}
{{- fail "etcd would be reached without TLS, and whoever reaches it may change all metadata: set externalEtcd.tls.enabled=true, or say that only trusted ones do with insecure=true" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* The Secret of one component: (dict "root" $ "component" "bookie"). */}}
{{- define "geminga.tlsSecret" -}}
{{- if .root.Values.tls.certManager.enabled -}}
{{- printf "%s-%s-tls" (include "geminga.fullname" .root) .component -}}
{{- else -}}
{{- get .root.Values.tls.secrets .component -}}
{{- end -}}
{{- end -}}

{{/* The Secret that the hook shows to the etcd that runs: that of the bookies that run. One that the upgrade names may not be there before
it, as those of cert-manager are not. */}}
{{- define "geminga.hookSecret" -}}
{{- $secret := include "geminga.tlsSecret" (dict "root" . "component" "bookie") -}}
{{- $bookies := lookup "apps/v1" "StatefulSet" .Release.Namespace (printf "%s-bookie" (include "geminga.fullname" .)) -}}
{{- range dig "spec" "template" "spec" "volumes" list $bookies -}}
{{- if eq .name "tls" -}}{{- $secret = .secret.secretName -}}{{- end -}}
{{- end -}}
{{- $secret -}}
{{- end -}}

{{/* Variables that name the files in a directory: (dict "prefix" "GEMINGA_TLS" "directory" "/etc/x" "pair" true). */}}
{{- define "geminga.fileEnv" -}}
- {name: {{ .prefix }}_CA, value: {{ .directory }}/ca.crt}
{{- if .pair }}
- {name: {{ .prefix }}_CERT, value: {{ .directory }}/tls.crt}
- {name: {{ .prefix }}_KEY, value: {{ .directory }}/tls.key}
{{- end }}
{{- end -}}

{{/* Of a server: its own certificate, and what an etcd of another authority is shown. Commands in its container read the first, too. */}}
{{- define "geminga.tlsEnv" -}}
{{- if .Values.tls.enabled }}
{{ include "geminga.fileEnv" (dict "prefix" "GEMINGA_TLS" "directory" "/etc/geminga-tls" "pair" true) }}
- {name: GEMINGA_TLS_CLIENT_AUTH, value: {{ .Values.tls.clientAuth }}}
{{- end }}
{{- if .Values.externalEtcd.tls.secret }}
{{ include "geminga.fileEnv" (dict "prefix" "GEMINGA_ETCD" "directory" "/etc/geminga-etcd-tls" "pair" .Values.externalEtcd.tls.clientCertificate) }}
{{- end }}
{{- end -}}

{{/* Whole directories: a file mounted by subPath would stay what it was when the Secret changes. */}}
{{- define "geminga.tlsMount" -}}
- {name: tls, mountPath: /etc/geminga-tls, readOnly: true}
{{- end -}}

{{- define "geminga.etcdTlsMount" -}}
- {name: etcd-tls, mountPath: /etc/geminga-etcd-tls, readOnly: true}
{{- end -}}

{{/* (dict "root" $ "component" "bookie") */}}
{{- define "geminga.tlsVolume" -}}
- name: tls
  secret: {secretName: {{ include "geminga.tlsSecret" . }}, defaultMode: 0440}
{{- end -}}

{{- define "geminga.etcdTlsVolume" -}}
- name: etcd-tls
  secret: {secretName: {{ .Values.externalEtcd.tls.secret }}, defaultMode: 0440}
{{- end -}}

{{/* All that a server has. */}}
{{- define "geminga.tlsMounts" -}}
{{- if .Values.tls.enabled }}
{{ include "geminga.tlsMount" . }}
{{- end }}
{{- if .Values.externalEtcd.tls.secret }}
{{ include "geminga.etcdTlsMount" . }}
{{- end }}
{{- end -}}

{{/* (dict "root" $ "component" "bookie") */}}
{{- define "geminga.tlsVolumes" -}}
{{- if .root.Values.tls.enabled }}
{{ include "geminga.tlsVolume" . }}
{{- end }}
{{- if .root.Values.externalEtcd.tls.secret }}
{{ include "geminga.etcdTlsVolume" .root }}
{{- end }}
{{- end -}}

{{/* What Prometheus shows, where it has to. */}}
{{- define "geminga.monitoringSecret" -}}
{{- if eq .Values.tls.clientAuth "required" -}}
{{- include "geminga.tlsSecret" (dict "root" . "component" "monitoring") -}}
{{- end -}}
{{- end -}}

{{/* The name that all pods of a component have a certificate for: (dict "root" $ "component" "bookie"). */}}
{{- define "geminga.commonHost" -}}
{{ include "geminga.fullname" .root }}-{{ .component }}.{{ .root.Release.Namespace }}.svc.{{ .root.Values.clusterDomain }}
{{- end -}}

{{/* dnsNames and ipAddresses of the certificate of a component: what others, and itself, connect to it by. */}}
{{- define "geminga.certificateNames" -}}
{{- $root := .root -}}
{{- $host := include "geminga.commonHost" . -}}
{{- $names := list (printf "*.%s" $host) $host "localhost" -}}
{{- $addresses := list "127.0.0.1" "::1" -}}
{{- if eq .component "etcd" -}}
{{- /* By each name: etcd looks up whether a member that connects has one of them. */ -}}
{{- range $ordinal := until (int $root.Values.etcd.replicas) -}}
{{- $pod := printf "%s-etcd-%d" (include "geminga.fullname" $root) $ordinal -}}
{{- $names = append $names (include "geminga.podHost" (dict "root" $root "component" "etcd" "pod" $pod)) -}}
{{- end -}}
{{- end -}}
{{- if eq .component "serving" -}}
{{- $kafka := $root.Values.serving.kafka -}}
{{- range $service := ternary (list "grpc" "kafka") (list "grpc") $kafka.enabled -}}
{{- $name := printf "%s-%s" (include "geminga.fullname" $root) $service -}}
{{- $namespace := $root.Release.Namespace -}}
{{- $names = concat $names (list $name (printf "%s.%s" $name $namespace) (printf "%s.%s.svc" $name $namespace) (printf "%s.%s.svc.%s" $name $namespace $root.Values.clusterDomain)) -}}
{{- end -}}
{{- if $kafka.external.enabled -}}
{{- range $which := include "geminga.externalBrokers" $root | fromYamlArray -}}
{{- $outside := $kafka.external.host | replace "{ordinal}" $which | lower -}}
{{- if regexMatch "^[0-9.]+$" $outside -}}
{{- $addresses = append $addresses $outside -}}
{{- else -}}
{{- $names = append $names $outside -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- $names = concat $names $root.Values.tls.certManager.dnsNames -}}
{{- $addresses = concat $addresses $root.Values.tls.certManager.ipAddresses -}}
{{- end -}}
dnsNames: {{- $names | uniq | toYaml | nindent 2 }}
ipAddresses: {{- $addresses | uniq | toYaml | nindent 2 }}
{{- end -}}
