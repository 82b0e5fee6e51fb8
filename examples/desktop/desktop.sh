#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# slicemgr by D-Bus from a shell, with busctl alone; what each verb calls is to be copied from here.
#
#   desktop.sh [--system] list                     slices and jobs, with what they use
#   desktop.sh [--system] tree                     the objects
#   desktop.sh [--system] introspect [NAME]        what can be asked of slicemgr, or of a slice or a job
#   desktop.sh [--system] monitor                  signals as they come, until ^C (--system: as root)
#   desktop.sh [--system] limits JOB KEY=BYTES...  such as MemoryMax=2147483648; KEY=max is no limit
#   desktop.sh [--system] pause|resume JOB         freeze it, and go on
#   desktop.sh [--system] explain NAME|PID         who would be ended now, and why
#   desktop.sh hold COMMAND...                     builds yield while COMMAND runs
#
# The user's daemon is on the session bus: no root needed. Exit status: 2 for what can't be meant, else busctl's.

set -euo pipefail

readonly name=org.slicemgr1 root=/org/slicemgr1
readonly manager=$name.Manager slice=$name.Slice job=$name.Job
bus=--user manager_of=--user

# Who looks starts no daemon.
ask() { busctl "$bus" --auto-start=no "$@"; }

fail() {
    printf 'desktop.sh: %s\n' "$2" >&2
    exit "$1"
}

usage() { fail 2 "$1; try 'desktop.sh --help'"; }

# There are a bus, and a daemon on it.
look_for_daemon() {
    local answer
    answer=$(ask call org.freedesktop.DBus /org/freedesktop/DBus org.freedesktop.DBus NameHasOwner s "$name" 2>/dev/null) ||
        fail 1 "no bus to ask; try from within a desktop session, or --system"
    [[ $answer == "b true" ]] ||
        fail 1 "no slicemgr daemon on this bus; try 'systemctl $manager_of enable --now slicemgr'"
}

# The object in an answer like: o "/org/slicemgr1/jobs/..."
path_of() {
    local answer
    answer=$(ask call "$name" "$root" "$manager" "$1" "sa{sv}" "$2" 0) || exit
    answer=${answer#*\"}
    printf '%s\n' "${answer%\"}"
}

# One line for each object of an answer like: a(so) 2 "build.slice" "/org/..." "app.slice" "/org/..."
rows() {
    local words at
    read -ra words <<<"$1"
    for ((at = 2; at + 1 < ${#words[@]}; at += 2)); do
        printf '%s %s\n' "${words[at]//\"/}" "${words[at + 1]//\"/}"
    done
}

# One line for each property, such as: t 5242880. What has ended since says nothing.
show() {
    local values
    values=$(ask get-property "$name" "$2" "$3" MemoryCurrent MemoryMax Processes 2>/dev/null) || return 0
    read -rd '' _ current _ most _ processes <<<"$values" || true
    [[ $most != 18446744073709551615 ]] || most=max
    printf '%-40s %15s %15s %5s\n' "$1" "$current" "$most" "$processes"
}

list() {
    local answer unit path
    printf '%-40s %15s %15s %5s\n' "SLICE, JOB" BYTES MOST PROCS
    answer=$(ask call "$name" "$root" "$manager" ListSlices "a{sv}" 0)
    while read -r unit path; do show "$unit" "$path" "$slice"; done < <(rows "$answer")
    answer=$(ask call "$name" "$root" "$manager" ListJobs "a{sv}" 0)
    while read -r unit path; do show "  $unit" "$path" "$job"; done < <(rows "$answer")
}

introspect() {
    local path=$root
    if (($#)); then
        path=$(path_of GetSlice "$1" 2>/dev/null) || path=$(path_of GetJob "$1") || exit
    fi
    ask introspect "$name" "$path"
}

limits() {
    local unit=$1 path limit key value limits=()
    shift
    for limit; do
        key=${limit%%=*} value=${limit#*=}
        [[ $limit == *=* && ($value == max || $value =~ ^[0-9]+$) ]] ||
            usage "'$limit' is no limit such as MemoryMax=2147483648"
        # No limit is the greatest number there is.
        [[ $value != max ]] || value=18446744073709551615
        limits+=("$key" t "$value")
    done
    path=$(path_of GetJob "$unit")
    ask call "$name" "$path" "$job" SetLimits "a{sv}a{sv}" $# "${limits[@]}" 0
}

pause_or_resume() {
    local path
    path=$(path_of GetJob "$2")
    ask call "$name" "$path" "$job" "$1" "a{sv}" 0
}

if [[ ${1-} == --system ]]; then
    bus=--system manager_of=--system
    shift
fi
command -v busctl >/dev/null || fail 1 "no busctl here; try 'sudo apt install systemd', or gdbus as in docs/dbus.md"
verb=${1-}
(($# == 0)) || shift
case $verb:$# in
list:0) look_for_daemon && list ;;
tree:0) look_for_daemon && ask tree "$name" ;;
introspect:[01]) look_for_daemon && introspect "$@" ;;
monitor:0) look_for_daemon && exec busctl "$bus" --auto-start=no monitor "--match=type='signal',sender='$name'" ;;
limits:[2-9]) look_for_daemon && limits "$@" ;;
pause:1) look_for_daemon && pause_or_resume Pause "$1" ;;
resume:1) look_for_daemon && pause_or_resume Resume "$1" ;;
explain:1) look_for_daemon && ask --json=pretty call "$name" "$root" "$manager" Explain "sa{sv}" "$1" 0 ;;
hold:[1-9]*)
    # A hold lasts as long as its holder is on the bus, and busctl leaves it after each call.
    [[ $bus == --user ]] || usage "builds yield on the session bus"
    exec "$(dirname "$(readlink -f "$0")")/desktop.py" play "$@"
    ;;
-h:0 | --help:0) sed -n '3,/^$/s/^# \{0,1\}//p' "$0" ;;
*) usage "'$verb' with $# words can't be meant" ;;
esac
