#!/usr/bin/env bash
# Makes inputs to begin with: the files of a small run.
set -euo pipefail
cd "$(dirname "$0")"
run=$(mktemp -d)
trap 'rm -rf "$run"' EXIT
program="${1:-cargo run --release --manifest-path ../../Cargo.toml --}"
$program train --run "$run/seed" --set train.epochs=1 --set data.take=3000 --set model.hidden=4 \
  --set model.embedding=3 --set data.batch=2 --set data.sequence=8 --set sample.length=0 >/dev/null
mkdir -p corpus/{corpus,vocabulary,config,checkpoint,safetensors}
cp "$run/seed/vocabulary.json" corpus/vocabulary/
cp "$run/seed/config.toml" corpus/config/
cp "$run"/seed/checkpoints/*.safetensors "$run/seed/model.safetensors" corpus/checkpoint/
cp "$run/seed/model.safetensors" corpus/safetensors/
printf '\0Le temps s\x27en va, madame;\r\nla pendule sonne.\n' >corpus/corpus/text
printf 'train.epochs=3' >corpus/config/assignment
