# Certificates and kubeconfig files of a local control plane; sourced, never run.
#
# Role: one throw-away authority per control plane, made by the openssl program.
# Invariants: keys are readable by root only; everything lives and dies with the
# control plane's folder.

# make_authority DIR
make_authority() {
  mkdir -p "$1"
  chmod 700 "$1"
  cat >"$1/authority.cnf" <<END
[req]
distinguished_name = name
x509_extensions = extensions
prompt = no
[name]
CN = pinkeeper-local
[extensions]
basicConstraints = critical,CA:true
keyUsage = critical,keyCertSign,cRLSign,digitalSignature
subjectKeyIdentifier = hash
END
  openssl req -x509 -config "$1/authority.cnf" -newkey ec -pkeyopt ec_paramgen_curve:P-256 \
    -nodes -days 3650 -keyout "$1/ca.key" -out "$1/ca.crt" 2>/dev/null
  openssl ecparam -name prime256v1 -genkey -noout -out "$1/service-accounts.key"
  openssl ec -in "$1/service-accounts.key" -pubout -out "$1/service-accounts.pub" 2>/dev/null
}

# make_certificate DIR NAME SUBJECT [SUBJECT-ALTERNATIVE-NAMES]
make_certificate() {
  local dir="$1" name="$2" subject="$3" names="${4:-}"
  {
    printf '[req]\ndistinguished_name = name\nx509_extensions = extensions\n[name]\n'
    printf '[extensions]\nbasicConstraints = critical,CA:false\n'
    printf 'keyUsage = critical,digitalSignature\nextendedKeyUsage = serverAuth,clientAuth\n'
    [ -z "$names" ] || printf 'subjectAltName = %s\n' "$names"
  } >"$dir/$name.cnf"
  openssl req -x509 -config "$dir/$name.cnf" -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes \
    -days 3650 -CA "$dir/ca.crt" -CAkey "$dir/ca.key" -subj "$subject" \
    -keyout "$dir/$name.key" -out "$dir/$name.crt" 2>/dev/null
}

# make_kubeconfig PKI-DIR NAME SERVER-URL FILE: everything inline, so that the
# file works from any folder.
make_kubeconfig() {
  local pki="$1" name="$2" server="$3" file="$4"
  (
    umask 077
    cat >"$file.partial" <<END
apiVersion: v1
kind: Config
current-context: pinkeeper-local
contexts:
- name: pinkeeper-local
  context: {cluster: pinkeeper-local, user: $name}
clusters:
- name: pinkeeper-local
  cluster:
    server: $server
    certificate-authority-data: $(base64 -w0 "$pki/ca.crt")
users:
- name: $name
  user:
    client-certificate-data: $(base64 -w0 "$pki/$name.crt")
    client-key-data: $(base64 -w0 "$pki/$name.key")
END
  )
  mv "$file.partial" "$file"
}
