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

for crd in crds/*.mcp.jomcgi.dev.yaml; do
  {
    echo '{{- if .Values.crds.install }}'
    # An annotation for Helm, put into the first `metadata:`, the definition's own.
    escape "$crd" | sed -e '0,/^metadata:$/s//metadata:\n  {{- if .Values.crds.keep }}\n  annotations:\n    helm.sh\/resource-policy: keep\n  {{- end }}/'
    echo '{{- end }}'
  } > "$templates/crds/$(basename "$crd")"
done

for role in operator proxy people; do
  escape "config/rbac/$role.yaml" > "$templates/rbac/$role.yaml"
done
