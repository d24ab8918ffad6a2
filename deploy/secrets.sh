#!/bin/sh
# Makes the secrets of docker-compose.yml in .secrets/, those that are not there yet: random, readable by you and the containers.
set -eu
cd "$(dirname "$0")/.."
umask 077
mkdir -p .secrets
chmod 711 .secrets

random() { od -An -N32 -tx1 /dev/urandom | tr -d ' \n'; }

: > .secrets/nats.env.new
for service in ingest process forward control system; do
  file=.secrets/nats_${service}_password
  [ -s "$file" ] || random > "$file"
  printf 'TAS_NATS_%s_PASSWORD=%s\n' "$(echo "$service" | tr a-z A-Z)" "$(cat "$file")" >> .secrets/nats.env.new
done
[ -s .secrets/nats_store_key ] || random > .secrets/nats_store_key
printf 'TAS_NATS_STORE_KEY=%s\n' "$(cat .secrets/nats_store_key)" >> .secrets/nats.env.new
mv .secrets/nats.env.new .secrets/nats.env
[ -s .secrets/admin_key ] || random > .secrets/admin_key
[ -s .secrets/secret_key ] || printf 'k1:%s\n' "$(head -c 32 /dev/urandom | base64 -w 0)" > .secrets/secret_key
chmod 444 .secrets/nats_*_password .secrets/admin_key .secrets/secret_key  # containers read them as another user; the folder is closed
chmod 700 .secrets
