#!/bin/sh
# Makes the secrets of this overlay in secrets/, which kustomize reads: those of deploy/secrets.sh.
set -eu
cd "$(dirname "$0")"
../../../deploy/secrets.sh
umask 077
mkdir -p secrets
for name in nats_ingest_password nats_process_password nats_forward_password nats_control_password nats_system_password \
  nats_store_key admin_key secret_key; do
  cp -f "../../../.secrets/$name" "secrets/$name"
done
