#!/bin/bash
# What it leaves behind is the real one's: TLS settings, an administrator's certificate, the password of admin.
# The password goes to the server through its environment; here it is only judged.
set -eu
password=${OPENSEARCH_INITIAL_ADMIN_PASSWORD:-}
if ((${#password} < 8)) || [[ ! $password =~ [A-Z] || ! $password =~ [a-z] || ! $password =~ [0-9] || ! $password =~ [^A-Za-z0-9] ]]; then
    echo "Password ${#password} characters long failed validation: at least 8, with an upper case letter, a lower case letter, a digit and a special character" >&2
    exit 1
fi
if grep -q '^plugins\.security' config/opensearch.yml; then
    echo "config/opensearch.yml seems to be already configured for Security. Quit."
    exit 0
fi
cat >>config/opensearch.yml <<'YAML'
plugins.security.ssl.http.enabled: true
plugins.security.allow_default_init_securityindex: true
plugins.security.authcz.admin_dn:
  - 'CN=kirk,OU=client,O=client,L=test,C=de'
YAML
