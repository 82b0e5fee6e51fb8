# SPDX-License-Identifier: LGPL-2.1-or-later
# bash completion for slicemgr

_slicemgr() {
    local cur prev words cword
    _init_completion -n = || return

    local verbs='run status list explain kills steps jobs monitor pause resume set config daemon session install'
    if ((cword == 1)); then
        mapfile -t COMPREPLY < <(compgen -W "$verbs --help --version" -- "$cur")
        return
    fi

    local options='' at
    case ${words[1]} in
        run)
            # From the command on it is that command's completion.
            for ((at = 2; at < cword; at++)); do
                case ${words[at]} in
                    --)
                        _command_offset $((at + 1))
                        return
                        ;;
                    --max | --high | --swap-max | --slice | --name | --json | --backend) ((at++)) ;;
                    --profile | --never-hold | --retry) ((at++)) ;;
                    -*) ;;
                    *)
                        _command_offset "$at"
                        return
                        ;;
                esac
            done
            options='--max --high --swap-max --slice --name --json --backend --profile'
            options+=' --no-pacing --never-hold --no-tokens --no-relaunch --retry --help --'
            ;;
        list | monitor) options='--json --user --system --help' ;;
        kills) options='--since -n --json --user --system --help' ;;
        steps) options='--limit --forget --json --user --system --help' ;;
        jobs) options='--max --explain --json --user --system --help' ;;
        status | explain) options='--json --user --system --help build.slice app.slice session.slice' ;;
        pause | resume)
            options='--user --system --no-ask-password --help'
            # Plain names alone: compgen expands what is in a list of words, and a job's name may be anything.
            [[ $cur == -* ]] || options+=" $(slicemgr list 2>/dev/null | cut -f 1 | LC_ALL=C grep -Ex '[A-Za-z0-9._+-]+')"
            ;;
        set)
            [[ $cur == *=* ]] && return
            options='--user --system --no-ask-password --help'
            for ((at = 2; at < cword; at++)); do
                [[ ${words[at]} == -* ]] || break
            done
            # The first word that is no option is a slice or a job, the others are limits.
            if ((at < cword)); then
                options+=' memory_high= memory_max= memory_swap_max= memory_low= memory_min= tasks_max= cpu_weight= io_weight='
                compopt -o nospace 2>/dev/null
            else
                options+=' build.slice app.slice session.slice'
            fi
            ;;
        config) options='--check --json --user --system --help' ;;
        daemon) options='--user --system --dry-run --help' ;;
        session) options='open close --pam --help' ;;
        install) options='--user --system --uninstall --dry-run --destdir --help' ;;
    esac

    case $prev in
        --json)
            # Only run's takes a file.
            if [[ ${words[1]} == run ]]; then
                _filedir
                return
            fi
            ;;
        --check)
            _filedir toml
            return
            ;;
        --destdir)
            _filedir -d
            return
            ;;
        --slice)
            mapfile -t COMPREPLY < <(compgen -W 'build app session' -- "$cur")
            return
            ;;
        --backend)
            mapfile -t COMPREPLY < <(compgen -W 'auto systemd cgroup embedded' -- "$cur")
            return
            ;;
        --profile)
            mapfile -t COMPREPLY < <(compgen -W 'build agent' -- "$cur")
            return
            ;;
        --max | --high | --swap-max | --name | --never-hold | --retry | --since | -n | --limit) return ;;
    esac

    mapfile -t COMPREPLY < <(compgen -W "$options" -- "$cur")
    if [[ ${words[1]} == @(steps|jobs) && $cur != -* ]]; then
        _filedir -d
    fi
    if [[ ${words[1]} == run && $cur != -* ]]; then
        _command_offset "$cword"
    fi
}

complete -F _slicemgr slicemgr
