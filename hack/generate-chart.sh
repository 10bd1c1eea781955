#!/usr/bin/env bash
# Generates the parts of the Helm chart that are copies: the CRDs from crds/ and the roles from config/rbac. Helm cannot read
# files outside the chart.
set -euo pipefail
cd "$(dirname "$0")/.."
templates=charts/mcp-oauth-operator/templates

# Escapes {{ so that Helm does not evaluate it.
escape() { sed -e 's/{{/{{ "{{" }}/g' "$1"; }

rm -rf "$templates/crds" "$templates/rbac"
mkdir -p "$templates/crds" "$templates/rbac"

# Adds an annotation for Helm to the object's own `metadata:`, which is the first.
keep='0,/^metadata:$/s//metadata:\n  {{- if .Values.crds.keep }}\n  annotations:\n    helm.sh\/resource-policy: keep\n  {{- end }}/'

for crd in crds/*.mcp.jomcgi.dev.yaml; do
  {
    echo '{{- if .Values.crds.install }}'
    escape "$crd" | sed -e "$keep"
    echo '{{- end }}'
  } > "$templates/crds/$(basename "$crd")"
done

escape config/rbac/operator.yaml > "$templates/rbac/operator.yaml"
# Proxies that survive an uninstall still need their role.
escape config/rbac/proxy.yaml | sed -e "$keep" > "$templates/rbac/proxy.yaml"
# rbac.aggregate decides whether edit and view include these roles.
escape config/rbac/people.yaml | sed -e '/^  labels:$/i\  {{- if .Values.rbac.aggregate }}' \
  -e '/^rules:$/i\  @end' | awk '/aggregate-to-/ { inside = 1 } /^  @end$/ { if (inside) print "  {{- end }}"; inside = 0; next } { print }' \
  > "$templates/rbac/people.yaml"
