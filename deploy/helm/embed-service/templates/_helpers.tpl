{{- define "embed-service.fullname" -}}
{{- if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- /* Called with (list $ "component"). */ -}}
{{- define "embed-service.name" -}}
{{- printf "%s-%s" (include "embed-service.fullname" (first .)) (last .) -}}
{{- end -}}

{{- define "embed-service.selectors" -}}
{{- $root := first . -}}
app.kubernetes.io/name: {{ $root.Chart.Name }}
app.kubernetes.io/instance: {{ $root.Release.Name }}
app.kubernetes.io/component: {{ last . }}
{{- end -}}

{{- define "embed-service.labels" -}}
{{- $root := first . -}}
{{ include "embed-service.selectors" . }}
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{- end -}}

{{- define "embed-service.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "embed-service.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "embed-service.image" -}}
{{- printf "%s:%s" .Values.image.repository (default .Chart.AppVersion .Values.image.tag) -}}
{{- end -}}

{{- /* A value as the text of a variable; a whole number keeps its digits however large it is. */ -}}
{{- define "embed-service.text" -}}
{{- if kindIs "float64" . -}}
{{- if eq (float64 (int64 .)) . }}{{ int64 . }}{{ else }}{{ . }}{{ end -}}
{{- else if or (kindIs "map" .) (kindIs "slice" .) -}}
{{- toJson . -}}
{{- else -}}
{{- toString . -}}
{{- end -}}
{{- end -}}

{{- /* What every pod says of itself. No service links: a Service called vllm would set VLLM_PORT, which vLLM reads. */ -}}
{{- define "embed-service.pod" -}}
serviceAccountName: {{ include "embed-service.serviceAccount" . }}
automountServiceAccountToken: false
enableServiceLinks: false
{{- with .Values.imagePullSecrets }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "embed-service.placement" -}}
{{- with .Values.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- /* Called with a user's number. */ -}}
{{- define "embed-service.user" -}}
runAsNonRoot: true
runAsUser: {{ . }}
runAsGroup: {{ . }}
fsGroup: {{ . }}
fsGroupChangePolicy: OnRootMismatch
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{- define "embed-service.rights" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}

{{- /* Called with (list path seconds): a start of so many seconds at most, then once in ten seconds. */ -}}
{{- define "embed-service.liveness" -}}
startupProbe:
  httpGet:
    path: {{ first . }}
    port: http
  periodSeconds: 5
  timeoutSeconds: 5
  failureThreshold: {{ div (last .) 5 }}
livenessProbe:
  httpGet:
    path: {{ first . }}
    port: http
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 6
{{- end -}}

{{- /* The databases' keys in their Secret, as JSON: the home's first, then those of the other shards. */ -}}
{{- define "embed-service.databases" -}}
{{- prepend .Values.database.shardKeys .Values.database.key | toJson -}}
{{- end -}}

{{- /* Called with (list "worker" place): what works on the database in that place; the home's has no number. */ -}}
{{- define "embed-service.ofDatabase" -}}
{{- if last . }}{{ first . }}-{{ last . }}{{ else }}{{ first . }}{{ end -}}
{{- end -}}

{{- /* The components of all workers, as JSON. */ -}}
{{- define "embed-service.workers" -}}
{{- $names := list -}}
{{- range $place, $_ := include "embed-service.databases" . | fromJsonArray -}}
{{- $names = append $names (include "embed-service.ofDatabase" (list "worker" $place)) -}}
{{- end -}}
{{- toJson $names -}}
{{- end -}}

{{- /* Called with (list $ "key"): DATABASE_URL, out of that key of the databases' Secret. */ -}}
{{- define "embed-service.databaseEnv" -}}
{{- $root := first . -}}
{{- if $root.Values.postgres.enabled -}}
- name: EMBED_PASSWORD
  valueFrom:
    secretKeyRef:
      name: {{ $root.Values.postgres.existingSecret }}
      key: embed-password
- name: DATABASE_URL
  value: postgresql://embed:$(EMBED_PASSWORD)@{{ include "embed-service.name" (list $root "postgres") }}:5432/embed
{{- else -}}
- name: DATABASE_URL
  valueFrom:
    secretKeyRef:
      name: {{ $root.Values.database.existingSecret }}
      key: {{ last . }}
{{- end -}}
{{- end -}}

{{- /* The databases of the API: the home, its replica, the other shards. */ -}}
{{- define "embed-service.databasesEnv" -}}
{{ include "embed-service.databaseEnv" (list . .Values.database.key) }}
{{- if and .Values.database.replicaKey (not .Values.postgres.enabled) }}
- name: DATABASE_REPLICA_URL
  valueFrom:
    secretKeyRef:
      name: {{ .Values.database.existingSecret }}
      key: {{ .Values.database.replicaKey }}
{{- end }}
{{- with .Values.database.shardKeys }}
{{- $urls := list }}
{{- range $index, $key := . }}
{{- $name := printf "SHARD_%d_URL" (add1 $index) }}
{{- $urls = append $urls (printf "$(%s)" $name) }}
- name: {{ $name }}
  valueFrom:
    secretKeyRef:
      name: {{ $.Values.database.existingSecret }}
      key: {{ $key }}
{{- end }}
- name: DATABASE_SHARD_URLS
  value: {{ join " " $urls | quote }}
{{- end }}
{{- end -}}

{{- /* The settings of API and worker, but for their databases. What `settings` says goes before what the chart's own
models suggest. */ -}}
{{- define "embed-service.env" -}}
{{- $values := deepCopy .Values.settings -}}
{{- if .Values.vllm.enabled -}}
{{- $address := printf "http://%s:8000/v1" (include "embed-service.name" (list . "vllm")) -}}
{{- $values = merge $values (dict "SLM_IMPL" "vllm" "VLLM_BASE_URL" $address "VLLM_MODEL_NAME" .Values.vllm.model) -}}
{{- end -}}
{{- if .Values.embedding.enabled -}}
{{- $address := printf "http://%s:8000/embed" (include "embed-service.name" (list . "embedding")) -}}
{{- $values = merge $values (dict "EMBED_ENDPOINT" $address) -}}
{{- end -}}
- name: HOST
  value: 0.0.0.0
- name: PORT
  value: "8080"
- name: DATA_DIR
  value: /data
- name: LOG_DIR
  value: /logs
- name: LOCAL_MODELS_DIR
  value: {{ .Values.models.path | quote }}
- name: WORKER_INSIDE
  value: "false"
{{- if .Values.trainingData.existingClaim }}
- name: TRAINING_DATA_DIR
  value: /training
- name: ENABLE_TRAINING_DATA_COLLECTION
  value: {{ .Values.trainingData.enabled | quote }}
{{- end }}
{{- range $name, $value := $values }}
- name: {{ $name }}
  value: {{ include "embed-service.text" $value | quote }}
{{- end }}
{{- with .Values.secrets.existingSecret }}
{{- range $name := list "SLM_API_KEY" "UPSTREAM_API_KEY" "HF_TOKEN" }}
- name: {{ $name }}
  valueFrom:
    secretKeyRef:
      name: {{ $.Values.secrets.existingSecret }}
      key: {{ $name }}
      optional: true
{{- end }}
{{- end }}
{{- end -}}

{{- define "embed-service.mounts" -}}
- name: data
  mountPath: /data
- name: logs
  mountPath: /logs
- name: tmp
  mountPath: /tmp
- name: models
  mountPath: {{ .Values.models.path }}
{{- if .Values.trainingData.existingClaim }}
- name: training
  mountPath: /training
{{- end }}
{{- if .Values.files }}
- name: files
  mountPath: /config
  readOnly: true
{{- end }}
{{- end -}}

{{- define "embed-service.models" -}}
- name: models
  {{- if .Values.models.existingClaim }}
  persistentVolumeClaim:
    claimName: {{ .Values.models.existingClaim }}
  {{- else }}
  emptyDir: {}
  {{- end }}
{{- end -}}

{{- define "embed-service.volumes" -}}
- name: data
  emptyDir:
    sizeLimit: 4Gi
- name: logs
  emptyDir:
    sizeLimit: 256Mi
- name: tmp
  emptyDir:
    sizeLimit: 2Gi
{{ include "embed-service.models" . }}
{{- if .Values.trainingData.existingClaim }}
- name: training
  persistentVolumeClaim:
    claimName: {{ .Values.trainingData.existingClaim }}
{{- end }}
{{- if .Values.files }}
- name: files
  configMap:
    name: {{ include "embed-service.name" (list . "files") }}
{{- end }}
{{- end -}}

{{- define "embed-service.annotations" -}}
{{- $own := dict -}}
{{- if .Values.files -}}
{{- $own = dict "checksum/files" (toJson .Values.files | sha256sum) -}}
{{- end -}}
{{- with merge $own .Values.podAnnotations }}
annotations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}
