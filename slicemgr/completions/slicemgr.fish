# SPDX-License-Identifier: LGPL-2.1-or-later
# fish completion for slicemgr

set -l verbs run status list explain kills steps jobs monitor pause resume set config daemon session install
set -l run '__fish_seen_subcommand_from run'

complete -c slicemgr -f
complete -c slicemgr -n "not __fish_seen_subcommand_from $verbs" -a run -d 'Run a command under memory limits'
complete -c slicemgr -n "not __fish_seen_subcommand_from $verbs" -a status -d 'Slices, jobs, limits, usage and pressure'
complete -c slicemgr -n "not __fish_seen_subcommand_from $verbs" -a list -d 'Slices and jobs'
complete -c slicemgr -n "not __fish_seen_subcommand_from $verbs" -a explain -d 'Who would be killed now, and why'
complete -c slicemgr -n "not __fish_seen_subcommand_from $verbs" -a kills -d 'What was killed, and why'
complete -c slicemgr -n "not __fish_seen_subcommand_from $verbs" -a steps -d 'The steps of builds that held the most memory'
complete -c slicemgr -n "not __fish_seen_subcommand_from $verbs" -a jobs -d 'How many steps of a build fit into memory at once'
complete -c slicemgr -n "not __fish_seen_subcommand_from $verbs" -a monitor -d 'What happens, as it happens'
complete -c slicemgr -n "not __fish_seen_subcommand_from $verbs" -a pause -d 'Let all of a job stand still'
complete -c slicemgr -n "not __fish_seen_subcommand_from $verbs" -a resume -d 'Let a paused job go on'
complete -c slicemgr -n "not __fish_seen_subcommand_from $verbs" -a set -d 'Other limits for a slice or a job'
complete -c slicemgr -n "not __fish_seen_subcommand_from $verbs" -a config -d 'The configuration, and where it is from'
complete -c slicemgr -n "not __fish_seen_subcommand_from $verbs" -a daemon -d 'The service itself'
complete -c slicemgr -n "not __fish_seen_subcommand_from $verbs" -a session -d 'Tell a daemon of a desktop session'
complete -c slicemgr -n "not __fish_seen_subcommand_from $verbs" -a install -d 'Put units and completions into place'
complete -c slicemgr -l help -d 'Show help'
complete -c slicemgr -n "not __fish_seen_subcommand_from $verbs" -l version -d 'Show the version'

complete -c slicemgr -n $run -l max -x -d 'Hard limit: above it one process is killed'
complete -c slicemgr -n $run -l high -x -d 'Soft limit: above it you are warned'
complete -c slicemgr -n $run -l swap-max -x -d 'Hard limit on swapped memory'
complete -c slicemgr -n $run -l slice -x -a 'build app session' -d 'The slice to run in'
complete -c slicemgr -n $run -l name -x -d 'The name in reports'
complete -c slicemgr -n $run -l json -r -F -d 'Write what happened to a file as well'
complete -c slicemgr -n $run -l backend -x -a 'auto systemd cgroup embedded' -d 'Where to put it'
# From the command on it is that command's completion.
complete -c slicemgr -n $run -x -a '(__fish_complete_subcommand --fcs-skip=2 --max --high --swap-max --slice --name --json --backend)'

set -l reading '__fish_seen_subcommand_from status list explain kills steps jobs monitor config; and not __fish_seen_subcommand_from run'
complete -c slicemgr -n $reading -l json -d 'As JSON'
complete -c slicemgr -n '__fish_seen_subcommand_from kills' -l since -x -d 'Only those of the last'
complete -c slicemgr -n '__fish_seen_subcommand_from kills' -s n -x -d 'Only the last'
complete -c slicemgr -n '__fish_seen_subcommand_from steps' -l limit -x -d 'Show so many'
complete -c slicemgr -n '__fish_seen_subcommand_from steps' -l forget -d 'Forget them instead'
complete -c slicemgr -n '__fish_seen_subcommand_from jobs' -l max -x -d 'For a job of this limit'
complete -c slicemgr -n '__fish_seen_subcommand_from jobs' -l explain -d 'Say why'
complete -c slicemgr -n '__fish_seen_subcommand_from steps jobs' -a '(__fish_complete_directories)'
complete -c slicemgr -n '__fish_seen_subcommand_from status explain set' -a 'build.slice app.slice session.slice'
complete -c slicemgr -n '__fish_seen_subcommand_from pause resume' -a '(slicemgr list 2>/dev/null | cut -f 1)' -d 'A job'
complete -c slicemgr -n '__fish_seen_subcommand_from pause resume set' -l no-ask-password -d 'Polkit is not to ask for a password'
complete -c slicemgr -n '__fish_seen_subcommand_from set' -a 'memory_high= memory_max= memory_swap_max= memory_low= memory_min= tasks_max= cpu_weight= io_weight=' -d 'A limit'
complete -c slicemgr -n '__fish_seen_subcommand_from config' -l check -r -F -d 'Check a file'

complete -c slicemgr -n '__fish_seen_subcommand_from session' -a 'open close'
complete -c slicemgr -n '__fish_seen_subcommand_from session' -l pam -d 'Called by pam_exec'

set -l whose '__fish_seen_subcommand_from status list explain kills steps jobs monitor pause resume set config daemon install'
complete -c slicemgr -n $whose -l user -d 'Your own service manager'
complete -c slicemgr -n $whose -l system -d "The machine's service manager"
complete -c slicemgr -n '__fish_seen_subcommand_from daemon install' -l dry-run -d 'Only say what would be done'
complete -c slicemgr -n '__fish_seen_subcommand_from install' -l uninstall -d 'Remove exactly what was installed'
complete -c slicemgr -n '__fish_seen_subcommand_from install' -l destdir -x -a '(__fish_complete_directories)' -d 'Put the files below a folder'
