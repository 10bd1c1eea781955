#!/usr/bin/env bash
# Makes the parts of the Helm chart that are elsewhere already: the custom resource definitions from crds/, and the roles
# from config/rbac. Helm cannot read files outside the chart.
set -euo pipefail
cd "$(dirname "$0")/.."
templates=charts/mcp-oauth-operator/templates

# What Helm would take for a template stays text.
escape() { sed -e 's/{{/{{ "{{" }}/g' "$1"; }

rm -rf "$templates/crds" "$templates/rbac"
mkdir -p "$templates/crds" "$templates/rbac"

# An annotation for Helm, put into the first `metadata:`, the object's own.
keep='0,/^metadata:$/s//metadata:\n  {{- if .Values.crds.keep }}\n  annotations:\n    helm.sh\/resource-policy: keep\n  {{- end }}/'

for crd in crds/*.mcp.jomcgi.dev.yaml; do
  {
    echo '{{- if .Values.crds.install }}'
    escape "$crd" | sed -e "$keep"
    echo '{{- end }}'
  } > "$templates/crds/$(basename "$crd")"
done

escape config/rbac/operator.yaml > "$templates/rbac/operator.yaml"
# The pods of proxies that are kept need their role as long as they live.
escape config/rbac/proxy.yaml | sed -e "$keep" > "$templates/rbac/proxy.yaml"
# Whether `edit` and `view` include the roles for people is for the cluster's owner to say.
escape config/rbac/people.yaml | sed -e '/^  labels:$/i\  {{- if .Values.rbac.aggregate }}' \
  -e '/^rules:$/i\  @end' | awk '/aggregate-to-/ { inside = 1 } /^  @end$/ { if (inside) print "  {{- end }}"; inside = 0; next } { print }' \
  > "$templates/rbac/people.yaml"
