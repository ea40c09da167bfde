#!/usr/bin/env bash
# A mail server for tests (scripts/smtp_server.py, on aiosmtpd), on free loopback ports, all of it in DIR.
#
#   smtp.sh start DIR    start it; prints SMTP_URL, SMTP_STARTTLS_URL, SMTPS_URL, SMTP_CA, SMTP_MAILS and SMTP_ANSWERS
#   smtp.sh stop DIR     SIGTERM, and wait until it is gone
#   smtp.sh kill DIR     SIGKILL, and wait until it is gone
#   smtp.sh resume DIR   start it again: same ports, and the mails are kept
#   smtp.sh env DIR      print the variables again
#
# SMTP_URL takes mail from anybody, in clear; SMTP_STARTTLS_URL and SMTPS_URL want TLS and user `slackwater`, password `s3cret`.
# SMTP_CA is the file with the authority of its certificate. Each mail is a file in the directory SMTP_MAILS, there before the
# client hears `250`, with the sender, the recipients and the user in headers X-Envelope-From, X-Envelope-To (one for each) and
# X-Envelope-User before its own.
#
# To have a recipient refused, write the answer, such as `451 4.3.0 later`, into the file SMTP_ANSWERS/ADDRESS; into
# SMTP_ANSWERS/ADDRESS.data if only the mail itself is to be refused, after its data. `421 ...` closes the connection as well,
# `drop` closes it without an answer, `slow N ...` waits N seconds before the rest. Delete the file and the next one goes through.
#
# In DIR: smtp.pid, smtp.ports, smtp.log, tls/, mails/, answers/.
set -euo pipefail

here=$(dirname "$(realpath "${BASH_SOURCE[0]}")")
# shellcheck source=scripts/server.sh
source "$here/server.sh"

prepare() {
    local dir=$1
    needs openssl
    rm -rf "$dir/tls" "$dir/mails" "$dir/answers"
    mkdir "$dir/tls" "$dir/mails" "$dir/answers"
    certificate "$dir/tls"
    echo "$(free_port) $(free_port) $(free_port)" >"$dir/smtp.ports"
}

# The first Python that has aiosmtpd: Debian's package goes to Debian's Python, which need not be the first of the path.
python() {
    local python
    for python in python3 /usr/bin/python3; do
        "$python" -c 'import aiosmtpd' 2>/dev/null && echo "$python" && return
    done
    die "aiosmtpd is missing: run scripts/prerequisites.sh test"
}

launch() {
    local dir=$1 python ports
    python=$(python)
    read -ra ports <"$dir/smtp.ports"
    : >"$dir/smtp.log"
    setsid "$python" -B "$here/smtp_server.py" "$dir" "${ports[@]}" >>"$dir/smtp.log" 2>&1 </dev/null 9>&- &
    await_server $! "$dir/smtp.pid" "$dir/smtp.log" grep -qs '^ready' "$dir/smtp.log"
}

variables() {
    local dir=$1 plain starttls tls
    read -r plain starttls tls <"$dir/smtp.ports"
    echo "SMTP_URL=smtp://127.0.0.1:$plain"
    echo "SMTP_STARTTLS_URL=smtp://slackwater:s3cret@127.0.0.1:$starttls?tls=required"
    echo "SMTPS_URL=smtps://slackwater:s3cret@127.0.0.1:$tls"
    echo "SMTP_CA=$dir/tls/cert.pem"
    echo "SMTP_MAILS=$dir/mails"
    echo "SMTP_ANSWERS=$dir/answers"
}

serve "$@"
