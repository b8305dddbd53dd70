#!/usr/bin/env bash
# Makes the certificates of this folder anew. `openssl ca` alone lets a certificate begin in the past.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# make NAME ISSUER START END EXTENSION...
make() {
    local name=$1 issuer=$2 start=$3 end=$4 key="$work/$1.key" signed_by=()
    shift 4
    openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj "/CN=burn-dist tests, $name" \
        -keyout "$key" -out "$work/request"
    : >"$work/index"
    cat >"$work/config" <<END
[ca]
default_ca = one
[one]
database = $work/index
new_certs_dir = $work
rand_serial = yes
default_md = sha256
policy = any
[any]
commonName = supplied
[extensions]
$(printf '%s\n' "$@")
END
    if [ "$issuer" = "$name" ]; then
        signed_by=(-selfsign -keyfile "$key")
    else
        signed_by=(-cert "$issuer.pem" -keyfile "$work/$issuer.key")
    fi
    openssl ca -batch -notext -config "$work/config" -extensions extensions "${signed_by[@]}" \
        -startdate "$start" -enddate "$end" -in "$work/request" -out "$name.pem"
}

past=20200101000000Z
future=21200101000000Z
authority=("basicConstraints = critical, CA:TRUE" "keyUsage = critical, keyCertSign")
member=("basicConstraints = critical, CA:FALSE" "subjectAltName = DNS:burn-dist")
make ca ca $past $future "${authority[@]}"
make other-ca other-ca $past $future "${authority[@]}"
make member ca $past $future "${member[@]}"
make stranger other-ca $past $future "${member[@]}"
make expired ca $past 20200102000000Z "${member[@]}"
make misnamed ca $past $future "basicConstraints = critical, CA:FALSE" "subjectAltName = DNS:another-job"
make half ca $past $future "${member[@]}" "extendedKeyUsage = clientAuth"
for name in member stranger expired misnamed half; do
    cp "$work/$name.key" "$name.key"
done
