#!/usr/bin/env bash
# One compositional task with one model, its languages or tones side by side on a list of GPUs:
#   bash scripts/sweep.sh TASK MODEL GPU [GPU ...]        TASK: sum_tr, sum_tone, reply_tr, reply_tone; MODEL: as in run_sweep.py
# METHODS="zero_shot linear_merge" chooses rows of the table (default: the paper's but for shared calibrations), SWEEP_FLAGS="--no_judge"
# is handed on to run_sweep.py. Run again, it does what is missing.
set -euo pipefail
cd "$(dirname "$0")/.."
if [ $# -lt 3 ]; then
    sed -n 2,5p "$0" >&2
    exit 2
fi
task=$1 model=$2
shift 2
gpus=("$@")
case "$task" in
    *_tr) flag=--languages variants=(es fr de) ;;
    *_tone) flag=--tones variants=(professional casual witty paraphrase) ;;
    *) echo "error: there is no task $task: use sum_tr, sum_tone, reply_tr or reply_tone" >&2 && exit 2 ;;
esac
commands_of() {
    # shellcheck disable=SC2086
    python run_sweep.py --models "$model" --tasks "$task" $flag "$@" --methods ${METHODS:-paper} ${SWEEP_FLAGS:-} --print_commands shell
}
mkdir -p logs/sweep

# The data and the main task's adapter are common to all variants: they are made before these part.
commands_of "${variants[@]}" >logs/sweep/"$task".sh
main_adapter=$(grep -m 1 -- ' --do_train' logs/sweep/"$task".sh)
{ grep '^bash ' logs/sweep/"$task".sh || true; echo "$main_adapter"; } | CUDA_VISIBLE_DEVICES=${gpus[0]} bash -e

run_variants() { # those of one GPU, one after the other
    local gpu=$1 failed=0
    shift
    for variant in "$@"; do
        commands_of "$variant" | grep -v -e '^bash ' -e '^python make_tables.py ' >logs/sweep/"${task}_$variant".sh
        echo "$task $variant on GPU $gpu: logs/sweep/${task}_$variant.log"
        CUDA_VISIBLE_DEVICES=$gpu bash logs/sweep/"${task}_$variant".sh >logs/sweep/"${task}_$variant".log 2>&1 ||
            { failed=1 && echo "failed: $task $variant; its log says why" >&2; }
    done
    return $failed
}
jobs=()
for index in "${!gpus[@]}"; do
    own=()
    for number in "${!variants[@]}"; do
        if [ $((number % ${#gpus[@]})) = "$index" ]; then own+=("${variants[number]}"); fi
    done
    if [ ${#own[@]} -gt 0 ]; then run_variants "${gpus[index]}" "${own[@]}" & jobs+=($!); fi
done
failed=0
for job in "${jobs[@]}"; do wait "$job" || failed=1; done
grep '^python make_tables.py ' logs/sweep/"$task".sh | sed 's/ || failed=1$//' | bash || failed=1
exit $failed
