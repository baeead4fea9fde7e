# Shared by .ci/run and .ci/full: a scratch folder, sections that all run even if one fails, and a summary.
# Sourced, not run.

set -uo pipefail # no -e: a failing section must not prevent the others from running

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
scratch=$(mktemp -d)
child=
beside=

# When the script exits, end its running sections, each of which is a separate process group.
leave() {
    local running
    for running in $child $beside; do
        kill -TERM -- "-$running" 2>/dev/null
        wait "$running" 2>/dev/null
    done
    rm -rf "$scratch"
}
trap leave EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
unset PYTHONPATH PYTHONHOME VIRTUAL_ENV PYTHONDONTWRITEBYTECODE
export PIP_DISABLE_PIP_VERSION_CHECK=1
export PIP_COMPILE=no # Python compiles what is imported, which is a small part of what is installed

results=()
failures=0

# section TITLE COMMAND...: runs the command or function in a subshell that stops at the first error. With
# ONLY='oldest|newest' in the environment, only the sections whose titles match are run.
section() {
    local title=$1 started=$SECONDS status
    shift
    if ! [[ $title =~ ${ONLY:-} ]]; then
        return
    fi
    printf '\n════ %s\n' "$title"
    set -m
    (
        set -e
        "$@"
    ) </dev/null 2>&1 &
    child=$!
    set +m
    wait "$child"
    status=$?
    child=
    record "$title" "$started" "$status"
}

# record TITLE START STATUS: prints the result of a section and keeps it for the summary.
record() {
    local seconds=$((SECONDS - $2)) verdict=ok
    if [ "$3" -ne 0 ]; then
        verdict="FAILED (exit $3)"
        failures=$((failures + 1))
    fi
    results+=("$(printf '%5d s  %s: %s' "$seconds" "$1" "$verdict")")
    printf '──── %s after %d s: %s\n' "$1" "$seconds" "$verdict"
}

# section_beside TITLE COMMAND...: starts a section that needs one core beside the next one. `join_beside` waits for it.
section_beside() {
    beside_title=$1 beside_started=$SECONDS
    shift
    if ! [[ $beside_title =~ ${ONLY:-} ]]; then
        return
    fi
    set -m
    (
        set -e
        "$@"
    ) </dev/null >"$scratch/beside.log" 2>&1 &
    beside=$!
    set +m
}

# join_beside: waits for the section that was started beside others, and prints its output.
join_beside() {
    local status
    if [ -z "$beside" ]; then
        return
    fi
    wait "$beside"
    status=$?
    beside=
    printf '\n════ %s\n' "$beside_title"
    cat "$scratch/beside.log"
    record "$beside_title" "$beside_started" "$status"
}

# summary: prints the result of every section and exits with 1 if any failed.
summary() {
    printf '\n════ Summary, %d s in all\n' "$SECONDS"
    printf '%s\n' "${results[@]}"
    if [ "$failures" -ne 0 ]; then
        printf '%d of %d sections failed\n' "$failures" "${#results[@]}"
        exit 1
    fi
    printf 'all %d sections passed\n' "${#results[@]}"
}

# copy_tree FOLDER: copies the working tree, with new files and without ignored ones.
copy_tree() {
    mkdir -p "$1"
    (cd "$root" && git ls-files -z --cached --others --exclude-standard |
        while IFS= read -r -d '' file; do
            if [ -e "$file" ]; then printf '%s\0' "$file"; fi
        done | tar -c --null -T -) | tar -x -C "$1"
}

# readme_command NAME FOLDER: prints the single line of the bash block after `<!-- command: NAME -->` in the folder's README.md.
readme_command() {
    local line
    line=$(awk -v mark="<!-- command: $1 -->" '
        $0 == mark { found = 1; next }
        found && /^```bash$/ { inside = 1; next }
        inside && /^```$/ { exit }
        inside { print; next }
        found && NF { exit }' "$2/README.md")
    if [ -z "$line" ] || [ "$(wc -l <<<"$line")" -ne 1 ]; then
        echo "README.md: no bash block of one line follows <!-- command: $1 -->" >&2
        return 1
    fi
    printf '%s\n' "$line"
}

# run_readme_command NAME FOLDER: runs that line in the folder, as if pasted into a shell.
run_readme_command() {
    local line
    line=$(readme_command "$1" "$2")
    printf '$ %s\n' "$line"
    cd "$2"
    bash -c "$line"
}
