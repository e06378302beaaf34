#!/bin/sh
# Makes the two environments of the peers in a folder:  sh benchmarks/environments.sh FOLDER [PYTHON]
# The paper's stack is old (TRL removed its PPO trainer later), so it cannot share one with the others.
set -eu
folder=$1
python=${2:-python3}
torch=${TORCH:-torch==2.13.0}
[ -e "$folder/old/ready" ] || {
    "$python" -m venv "$folder/old"
    "$folder/old/bin/pip" install --quiet "$torch" trl==0.11.4 transformers==4.46.3 peft==0.13.2 accelerate==1.1.1 'datasets<4' rich sentencepiece
    touch "$folder/old/ready"
}
[ -e "$folder/new/ready" ] || {
    "$python" -m venv "$folder/new"
    "$folder/new/bin/pip" install --quiet "$torch" trl==1.16.0 transformers==5.23.0 peft==0.21.2 lm_eval==0.4.13
    touch "$folder/new/ready"
}
