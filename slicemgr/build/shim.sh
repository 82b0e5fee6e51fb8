#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-or-later
# Stands before a compiler in $PATH. Within a job of slicemgr it stays as the parent of the real one, and runs that
# again if slicemgr has killed it for lack of memory; anywhere else it becomes the real one at once. launcher.py writes
# it with the two marks below filled in, and says why it is as it is. All names have a prefix: a variable that the
# caller has exported would otherwise change for the compiler, too.

slicemgr_bin= # @BIN@
slicemgr_name=${0##*/}
slicemgr_real=
case $slicemgr_name in
slicemgr-launch) # As a launcher: the program is the first argument.
    if [ "$#" -eq 0 ]; then
        echo "slicemgr-launch: no command; try: slicemgr-launch cc -c x.c" >&2
        exit 2
    fi
    slicemgr_name=$1
    shift
    ;;
# @TABLE@
esac

# The next one in $PATH behind our directory, be it ccache's; and $PATH without us, so that what the compiler starts
# does not come here again. Called by a path that a build system has kept, we are not in $PATH: then it is the one that
# was there when this file was written.
slicemgr_path=
slicemgr_found=
slicemgr_here=
slicemgr_rest=${PATH-}:
while [ -n "$slicemgr_rest" ]; do
    slicemgr_entry=${slicemgr_rest%%:*}
    slicemgr_rest=${slicemgr_rest#*:}
    if [ "$slicemgr_entry" = "$slicemgr_bin" ]; then
        slicemgr_here=yes
        slicemgr_found=
        continue
    fi
    slicemgr_path=$slicemgr_path:$slicemgr_entry
    if [ -z "$slicemgr_found" ]; then
        slicemgr_entry=${slicemgr_entry:-.}/${slicemgr_name##*/}
        # shellcheck disable=SC3013 # dash, bash and busybox have -ef.
        if [ -x "$slicemgr_entry" ] && [ -f "$slicemgr_entry" ] && ! [ "$slicemgr_entry" -ef "$0" ]; then
            slicemgr_found=$slicemgr_entry
        fi
    fi
done
slicemgr_path=${slicemgr_path#:}
case $slicemgr_name in
*/*) slicemgr_real=$slicemgr_name ;;
*)
    if [ -n "$slicemgr_found" ] && { [ -n "$slicemgr_here" ] || ! [ -x "$slicemgr_real" ]; }; then
        slicemgr_real=$slicemgr_found
    elif ! [ -x "$slicemgr_real" ]; then
        slicemgr_real=$slicemgr_name # Not there: the shell says so below, and ends with 127.
    fi
    ;;
esac

slicemgr_plain=${SLICEMGR_STEP-} # Whoever started us, with one of us above it, is run again as a whole.
case $slicemgr_name:${1-} in
cmake:--build | cmake:--install | cmake:-E | cmake:-P) # Starts others, who need us in $PATH.
    exec "$slicemgr_real" "$@"
    ;;
cmake:* | ccmake:* | cmake-gui:*) # Looks for compilers and keeps their paths for good: not ours.
    slicemgr_plain=yes
    # A tree that has been built must not be built anew for our sake; and a preset does not tell where its tree is.
    slicemgr_fresh=$slicemgr_name
    [ -e CMakeCache.txt ] && slicemgr_fresh=
    for slicemgr_argument; do
        case $slicemgr_argument in --preset* | --workflow*) slicemgr_fresh= ;; esac
        [ -e "${slicemgr_argument#-B}/CMakeCache.txt" ] && slicemgr_fresh=
    done
    if [ "$slicemgr_fresh" = cmake ] && [ -n "${SLICEMGR_CMAKE_LINKER-}" ]; then
        export CMAKE_C_LINKER_LAUNCHER="${CMAKE_C_LINKER_LAUNCHER-$SLICEMGR_CMAKE_LINKER}"
        export CMAKE_CXX_LINKER_LAUNCHER="${CMAKE_CXX_LINKER_LAUNCHER-$SLICEMGR_CMAKE_LINKER}"
    fi
    if [ "$slicemgr_fresh" = cmake ] && [ -n "${SLICEMGR_CMAKE_COMPILER-}" ]; then
        export CMAKE_C_COMPILER_LAUNCHER="${CMAKE_C_COMPILER_LAUNCHER-$SLICEMGR_CMAKE_COMPILER}"
        export CMAKE_CXX_COMPILER_LAUNCHER="${CMAKE_CXX_COMPILER_LAUNCHER-$SLICEMGR_CMAKE_COMPILER}"
    fi
    ;;
*cache:-* | *cache: | distcc:-* | icecc:-*) slicemgr_plain=yes ;; # No compiler: a server is started, figures are shown.
esac
PATH=$slicemgr_path
if [ -n "$slicemgr_plain" ] || [ -z "${SLICEMGR_JOB-}" ] || ! [ -d "$SLICEMGR_JOB/killed" ]; then
    exec "$slicemgr_real" "$@"
fi

# Somebody's who had this pid before us.
[ -e "$SLICEMGR_JOB/killed/$$" ] && rm -f "$SLICEMGR_JOB/killed/$$"

# A signal to our group reaches the compiler as well. We end after it, so that nobody meets a compiler that still
# writes, and in the way that it did. What was ignored when we came stays ignored.
slicemgr_signal=
trap 'slicemgr_signal=1' HUP
trap 'slicemgr_signal=2' INT
trap 'slicemgr_signal=3' QUIT
trap 'slicemgr_signal=15' TERM

# shellcheck disable=SC2030,SC2031 # In a subshell it is meant to be.
slicemgr_run() {
    # The shell would say "Killed" on its own account. A subshell, because dash applies what is redirected for a single
    # command to itself as well. Not where 9 is in use, by a jobserver perhaps.
    if [ -e /proc/self/fd/2 ] && ! [ -e /proc/self/fd/9 ] && [ -c /dev/null ]; then
        exec 9>&2 2>/dev/null
        (export SLICEMGR_STEP=$$ && exec "$slicemgr_real" "$@") 2>&9 9>&-
        slicemgr_status=$?
        exec 2>&9 9>&-
    else
        (export SLICEMGR_STEP=$$ && exec "$slicemgr_real" "$@")
        slicemgr_status=$?
    fi
}

slicemgr_run "$@"
[ "$slicemgr_status" -eq 0 ] && exit 0
# Whom a daemon has killed, slicemgr run hears a moment later. Only while it may come to that: a configure script has
# hundreds of compiles that fail.
[ -e "$SLICEMGR_JOB/near" ] && ! [ -e "$SLICEMGR_JOB/killed/$$" ] && sleep 0.2

# Whether the same command can be given again: what it reads must still be there, and what it writes be written anew.
slicemgr_is_repeatable() {
    for slicemgr_argument; do
        case $slicemgr_argument in
        - | *=- | /dev/stdin | /dev/stdout | /dev/fd/* | /proc/*/fd/*) return 1 ;; # Read or written already.
        -E | -M | -MM | --stdout | --print | --print=*) return 1 ;;                # So has standard output.
        -run | --run) return 1 ;;                                                  # nvcc: not only compiles.
        esac
        [ -p "$slicemgr_argument" ] && return 1
    done
    case $slicemgr_name in
    rcc | xsltproc) # These write to standard output unless they are told otherwise.
        case " $* " in
        *" -o "* | *" --output "*) ;;
        *) return 1 ;;
        esac
        ;;
    esac
}

# rustc tells cargo as soon as it has written a crate's metadata; cargo starts whoever waits for that, and panics when
# it is told twice (1.95). Told nothing, it takes the end of rustc for it. Without the option the crate's hash would be
# another, and those that have started would not know it.
slicemgr_run_quietly() {
    slicemgr_run "$@" 2>"$SLICEMGR_JOB/again/$$"
    while IFS= read -r slicemgr_line || [ -n "$slicemgr_line" ]; do
        case $slicemgr_line in
        *'"artifact":"'*'.rmeta"'*) ;;
        *) printf '%s\n' "$slicemgr_line" >&2 ;;
        esac
    done <"$SLICEMGR_JOB/again/$$"
}

slicemgr_say() {
    slicemgr_line="${slicemgr_name##*/} $*"
    case $slicemgr_line in
    *[[:cntrl:]]*) slicemgr_line=${slicemgr_name##*/} ;; # Nothing that a terminal would obey.
    esac
    printf 'slicemgr: again: %.300s (it was killed for lack of memory)\n' "$slicemgr_line" >&2
}

slicemgr_left=${SLICEMGR_RETRIES:-1}
while [ "$slicemgr_status" -ne 0 ] && [ -e "$SLICEMGR_JOB/killed/$$" ] && [ "$slicemgr_left" -gt 0 ] 2>/dev/null; do
    case $slicemgr_status in
    129 | 130 | 131) break ;; # By a person, whatever else.
    esac
    [ -z "$slicemgr_signal" ] || break
    slicemgr_is_repeatable "$@" || break
    # Before it starts, so that whoever sees it start knows that it is to be alone.
    true 2>/dev/null >"$SLICEMGR_JOB/again/$$" || break
    rm -f "$SLICEMGR_JOB/killed/$$"
    slicemgr_say "$@"
    slicemgr_left=$((slicemgr_left - 1))
    slicemgr_tells=
    for slicemgr_argument; do
        case $slicemgr_argument in --json=*artifacts*) slicemgr_tells=yes ;; esac
    done
    if [ -n "$slicemgr_tells" ]; then slicemgr_run_quietly "$@"; else slicemgr_run "$@"; fi
    rm -f "$SLICEMGR_JOB/again/$$"
done
[ -e "$SLICEMGR_JOB/killed/$$" ] && rm -f "$SLICEMGR_JOB/killed/$$"

if [ "$slicemgr_status" -ne 0 ]; then
    trap - HUP INT QUIT TERM
    # shellcheck disable=SC3045 # Where there is no -c, there is another core.
    ulimit -c 0 2>/dev/null # The core that counts has been written.
    [ -n "$slicemgr_signal" ] && kill -"$slicemgr_signal" $$
    # Only these: 128 and the number of one that stops is a status of the program's own.
    case $((slicemgr_status - 128)) in
    [1-9] | 11 | 13 | 14 | 15) kill -"$((slicemgr_status - 128))" $$ ;;
    esac
fi
exit "$slicemgr_status"
