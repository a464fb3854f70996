#!/usr/bin/env bash
# The files of deploy/ tried for real: tests/deploy/run.sh [MODEL]
#
#   nginx     deploy/nginx.conf before a server on this machine, over TLS with a certificate made here (needs nginx, openssl, curl)
#   systemd   deploy/cloze.service read by systemd-analyze
#   Docker    deploy/Dockerfile: its steps done by hand, a static binary by musl (needs rustup's target x86_64-unknown-linux-musl;
#             STATIC=0 leaves it out, PROFILE=release builds as the Dockerfile does)
#
# CLOZE names the binary (target/debug/cloze). What is not installed is said to be skipped.
set -euo pipefail
cd "$(dirname "$0")/../.."
model=${1:-fixtures/bert-tiny}
cloze=${CLOZE:-target/debug/cloze}
[[ -x $cloze ]] || cargo build -p cloze-cli
scratch=$(mktemp -d)
started=()
trap 'for p in "${started[@]}"; do kill "$p" 2>/dev/null || true; done; rm -rf "$scratch"' EXIT
fail() { echo "FAILED: $1" >&2; exit 1; }
has() { command -v "$1" >/dev/null || { echo "skipped: $1 is not installed"; return 1; }; }

nginx_over_tls() {
    has nginx && has openssl && has curl || return 0
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=bert.example.org \
        -addext subjectAltName=DNS:bert.example.org -keyout "$scratch/key.pem" -out "$scratch/cert.pem" 2>/dev/null
    "$cloze" serve --model "tiny=$model" --port 0 --api-key sesame --log off >"$scratch/serve.out" 2>/dev/null &
    local server=$!
    started+=("$server")
    for _ in $(seq 100); do grep -q listening "$scratch/serve.out" && break; sleep 0.1; done
    local port
    port=$(sed 's/.*://' "$scratch/serve.out")
    # The file as it is, but for the places: the certificate, the ports.
    local tls
    tls=$((20000 + RANDOM % 20000))
    sed -e "s#/etc/letsencrypt/live/bert.example.org/fullchain.pem#$scratch/cert.pem#" \
        -e "s#/etc/letsencrypt/live/bert.example.org/privkey.pem#$scratch/key.pem#" \
        -e "s/127.0.0.1:3000/127.0.0.1:$port/" -e "s/listen 443/listen 127.0.0.1:$tls/" deploy/nginx.conf >"$scratch/cloze.conf"
    grep -q "$scratch/cert.pem" "$scratch/cloze.conf" && grep -q "127.0.0.1:$port" "$scratch/cloze.conf" || fail "deploy/nginx.conf has other names"
    cat >"$scratch/nginx.conf" <<CONF
daemon off;
pid $scratch/nginx.pid;
error_log $scratch/error.log;
events {}
http {
    access_log off;
    client_body_temp_path $scratch/body; proxy_temp_path $scratch/proxy; fastcgi_temp_path $scratch/f; uwsgi_temp_path $scratch/u; scgi_temp_path $scratch/s;
    include $scratch/cloze.conf;
}
CONF
    nginx -t -c "$scratch/nginx.conf" 2>&1 | grep -q successful || { nginx -t -c "$scratch/nginx.conf"; fail "nginx refuses the file"; }
    nginx -c "$scratch/nginx.conf" 2>/dev/null &
    started+=("$!")
    local site="https://bert.example.org:$tls" status
    ask() { curl -s --cacert "$scratch/cert.pem" --resolve "bert.example.org:$tls:127.0.0.1" -o "$scratch/answer" -w '%{http_code}' "$@"; }
    for _ in $(seq 100); do status=$(ask "$site/health" -H 'Authorization: Bearer sesame' || true); [[ $status == 200 ]] && break; sleep 0.1; done
    [[ $status == 200 ]] || fail "/health by TLS is $status"
    status=$(ask "$site/embed" -d '{"inputs": "the good book"}')
    [[ $status == 401 ]] || fail "without the key: $status"
    status=$(ask "$site/embed" -H 'Authorization: Bearer sesame' -d '{"inputs": "the good book"}' -D "$scratch/head")
    [[ $status == 200 ]] && grep -qi '^x-request-id: [0-9a-f]\{32\}' "$scratch/head" || fail "with the key: $status, $(cat "$scratch/head")"
    head -c 2000001 /dev/zero | tr '\0' ' ' >"$scratch/large"
    status=$(ask "$site/embed" -H 'Authorization: Bearer sesame' --data-binary "@$scratch/large")
    [[ $status == 413 ]] || fail "a body over the limit: $status"
    status=$(ask "$site/metrics" -H 'Authorization: Bearer sesame')
    [[ $status == 200 ]] || fail "/metrics from this machine: $status"
    # Many at once over kept connections, and an end under load that nginx's clients do not see.
    local refused
    refused=$(seq 200 | xargs -P 16 -I{} curl -s --cacert "$scratch/cert.pem" --resolve "bert.example.org:$tls:127.0.0.1" -o /dev/null -w '%{http_code}\n' \
        -H 'Authorization: Bearer sesame' -d '{"inputs": "the good book"}' "$site/embed" | grep -cv 200 || true)
    [[ $refused == 0 ]] || fail "$refused of 200 requests by nginx were not answered 200"
    kill -TERM "$server"
    wait "$server" || fail "the server's exit code is $?"
    status=$(ask "$site/health" -H 'Authorization: Bearer sesame')
    [[ $status == 502 ]] || fail "behind nginx a server that has gone is $status"
    echo "nginx: TLS, key, limits, 200 requests and the end are as they should be ($(nginx -v 2>&1))"
}

systemd_reads_the_unit() {
    has systemd-analyze || return 0
    # It looks for the binary: ours, under its name in the unit.
    mkdir -p "$scratch/unit"
    sed "s#/usr/local/bin/cloze#$(realpath "$cloze")#" deploy/cloze.service >"$scratch/unit/cloze.service"
    local said
    said=$(systemd-analyze verify "$scratch/unit/cloze.service" 2>&1) || fail "systemd-analyze: $said"
    [[ -z $said ]] || fail "systemd-analyze: $said"
    echo "systemd: the unit is sound; exposure $(systemd-analyze security --offline=true --no-pager "$scratch/unit/cloze.service" 2>/dev/null | tail -1 | sed 's/.*: //')"
}

the_image_can_be_built() {
    local copied
    for copied in $(sed -n 's/^COPY --from=build \([^ ]*\) .*/\1/p' deploy/Dockerfile); do
        [[ $copied == /src/target/*/cloze ]] || fail "deploy/Dockerfile copies $copied"
    done
    # Variables of the image are options of the program.
    local help name
    help=$("$cloze" serve --help)
    for name in $(grep -o 'CLOZE_[A-Z_]*' deploy/Dockerfile deploy/cloze.service | sed 's/.*://' | sort -u); do
        grep -q "$name" <<<"$help" || fail "$name is no variable of cloze serve"
    done
    for name in $(grep -oh -- '--[a-z][a-z-]*' deploy/cloze.service deploy/nginx.conf | sort -u); do
        grep -q -- "$name" <<<"$help" || fail "$name is no option of cloze serve"
    done
    [[ ${STATIC:-1} == 1 ]] || { echo "Docker: options are as they should be; skipped: the static binary"; return 0; }
    if ! rustup target list --installed 2>/dev/null | grep -qx x86_64-unknown-linux-musl; then
        echo "Docker: options are as they should be; skipped: rustup target add x86_64-unknown-linux-musl"
        return 0
    fi
    local profile=${PROFILE:-dev} folder
    folder=$([[ $profile == dev ]] && echo debug || echo "$profile")
    cargo build --profile "$profile" --locked -p cloze-cli --target x86_64-unknown-linux-musl
    local binary=target/x86_64-unknown-linux-musl/$folder/cloze
    ! ldd "$binary" >/dev/null 2>&1 || ldd "$binary" 2>&1 | grep -q 'statically linked\|not a dynamic' || fail "$binary is not static: $(ldd "$binary")"
    # As in the image: nothing around it, nobody runs it.
    mkdir -p "$scratch/root/tmp"
    cp "$binary" "$scratch/root/cloze"
    cp -r "$model" "$scratch/root/model"
    chmod -R a+rX "$scratch/root" "$scratch"
    if [[ $(id -u) == 0 ]]; then
        CLOZE_HOST=127.0.0.1 CLOZE_MODEL=/model CLOZE_LOG=json CLOZE_PORT=0 chroot --userspec=65534:65534 "$scratch/root" /cloze serve >"$scratch/static.out" 2>/dev/null &
        local server=$!
        started+=("$server")
        for _ in $(seq 100); do grep -q listening "$scratch/static.out" && break; sleep 0.1; done
        local port
        port=$(sed 's/.*://' "$scratch/static.out")
        curl -sf "http://127.0.0.1:$port/embed" -d '{"inputs": "the good book"}' >/dev/null || fail "the static binary does not answer"
        kill -TERM "$server"
        wait "$server" || fail "the static binary's exit code is $?"
    else
        "$scratch/root/cloze" --version >/dev/null || fail "the static binary does not run"
    fi
    echo "Docker: the static binary ($(du -h "$binary" | cut -f1)) serves with nothing around it, as nobody"
}

nginx_over_tls
systemd_reads_the_unit
the_image_can_be_built
