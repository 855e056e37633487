#!/usr/bin/env bash
# The life of three models, with real git, DVC and remotes, in a temporary folder.
#
#     docs/registry.sh [CHECKOUT]
#
# CHECKOUT is the project to clone, by default the one that this script is in. The variables below
# choose the data and what the three models are trained with.
set -euo pipefail

checkout=$(cd "${1:-$(dirname "$0")/..}" && pwd)
source=${SOURCE:-synthetic}
read -ra first <<< "${FIRST:--S train.labeled_ratio=0.15}"
read -ra poor <<< "${POOR:--S featurize.fisher.dimensions=2}"
read -ra better <<< "${BETTER:--S train.labeled_ratio=1.0}"
export WANDB_MODE=${WANDB_MODE:-disabled}

place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
log=$place/log

say() { printf '\n# %s\n' "$*"; }
show() {
    local word words=""
    for word; do
        [[ $word == *" "* ]] && word="'$word'"
        words+=" $word"
    done
    printf '$%s\n' "${words//"$place/"/}"
}

# Show a command and what it says; DVC's own account of its work is kept for when it fails.
run() { show "$@"; "$@"; }
quietly() { show "$@"; "$@" > "$log" 2>&1 || { cat "$log" >&2; exit 1; }; }
refused() {
    show "$@"
    if "$@" 2>&1 | sed "s|$place/||g"; then echo "this should have been refused" >&2; exit 1; fi
}
# Tags, objects and (where it is online) W&B must agree after every step.
agreed() { grocery registry status > "$log" 2>&1 || { cat "$log" >&2; exit 1; }; }

say "A team: a git remote, a DVC remote beside it, and a clone"
cd "$place"
git clone --quiet --bare --no-tags "$checkout" origin.git
run git clone --quiet "$place/origin.git" ours
cd ours
git config user.name "${GIT_AUTHOR_NAME:-Ada}"
git config user.email "${GIT_AUTHOR_EMAIL:-ada@example.org}"
# Wherever the checkout's own remote is, these models do not go there.
dvc remote add --quiet --force --default storage ../grocery-storage
if [ "$source" != synthetic ]; then
    quietly dvc get https://github.com/marcusklasson/GroceryStoreDataset dataset \
        --rev fc80ba90f803d79d0383df52c5a4ac5de99ff6fc -o "data/raw/$source"
    quietly dvc add "data/raw/$source"
    run git add "data/raw/$source.dvc"
    first+=(-S "data.source=$source") poor+=(-S "data.source=$source")
    better+=(-S "data.source=$source")
fi

say "The first model, committed, registered, and put into production"
quietly dvc exp run --name first "${first[@]}"
run git commit --quiet --all --message "The first model"
run git push --quiet origin HEAD
refused grocery registry register
run grocery registry register --push
run grocery registry promote v1.0.0 --stage production
agreed

say "A poor one is rejected by its own pipeline, and cannot be registered"
quietly dvc exp run --name poor "${poor[@]}"
refused grocery registry register poor --push
agreed

say "A better one, straight from its experiment"
quietly git checkout --quiet HEAD .
quietly dvc checkout
quietly dvc exp run --name better "${better[@]}"
run grocery registry register better --push
run grocery registry promote v1.1.0 --stage staging
run grocery registry compare production staging
run grocery registry promote staging --stage production
agreed

say "Back to the first one? Not without a reason"
refused grocery registry promote v1.0.0 --stage production
run grocery registry promote v1.0.0 --stage production --force --reason "trusted for longer"
agreed
run grocery registry rollback --stage production --reason "customers complained"
agreed
run grocery registry list
run grocery registry show v1.0.0
run gto show grocery-classifier

say "Months later, elsewhere: the first model, byte for byte"
cd "$place"
run git clone --quiet "$place/origin.git" theirs
cd theirs
run git checkout --quiet grocery-classifier@v1.0.0
quietly dvc pull
run dvc status
run grocery registry reproduce v1.0.0
run git checkout --quiet -
run grocery registry fetch production --out served
