#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# The login hook for who has neither systemd's user manager nor XDG autostart. pam_exec(8) runs it as root if an
# administrator says so, in the file of the login program in /etc/pam.d, after pam_systemd or pam_elogind:
#
#   session optional pam_exec.so quiet quiet_log /bin/sh /usr/local/share/slicemgr/slicemgr-session.sh
#
# A login waits for it: it takes at most 4 s, says nothing and never fails.

# pam_exec(8): "the user can have control over the environment".
PATH=/usr/sbin:/usr/bin:/sbin:/bin
export PATH

case $PAM_TYPE in
open_session | close_session) ;;
*) exit 0 ;;
esac

env -i PATH="$PATH" LC_ALL=C.UTF-8 PAM_TYPE="$PAM_TYPE" PAM_SERVICE="$PAM_SERVICE" PAM_USER="$PAM_USER" \
    XDG_SESSION_ID="$XDG_SESSION_ID" XDG_SESSION_TYPE="$XDG_SESSION_TYPE" \
    timeout --kill-after=1 3 @SLICEMGR@ session --pam </dev/null >/dev/null 2>&1
exit 0
