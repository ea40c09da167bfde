"""The mail server of smtp.sh, which says what it does: smtp_server.py DIR PORT STARTTLS_PORT TLS_PORT"""

import asyncio
import itertools
import os
import pathlib
import ssl
import sys
import threading

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult

dir = pathlib.Path(sys.argv[1])
plain, starttls, tls = map(int, sys.argv[2:])
# goes on behind the mails of an earlier run
numbers = itertools.count(1 + len(list((dir / "mails").iterdir())))


async def refusal(server, name):
    """The answer that a test has put down for `name`, or None."""
    try:
        answer = (dir / "answers" / name).read_text().strip()
    except OSError:
        return None
    if answer.startswith("slow "):
        _, seconds, answer = (answer + " ").split(" ", 2)
        await asyncio.sleep(float(seconds))
    if answer == "drop":
        server.transport.abort()
    elif answer.startswith("421"):
        # after the answer has gone out
        asyncio.get_running_loop().call_later(0.05, server.transport.close)
    return answer.strip() or None


class Handler:
    async def handle_RCPT(self, server, session, envelope, address, options):
        if answer := await refusal(server, address):
            return answer
        envelope.rcpt_tos.append(address)
        return "250 2.1.5 OK"

    async def handle_DATA(self, server, session, envelope):
        for address in envelope.rcpt_tos:
            if answer := await refusal(server, address + ".data"):
                return answer
        head = [f"X-Envelope-From: {envelope.mail_from}"]
        head += [f"X-Envelope-To: {address}" for address in envelope.rcpt_tos]
        head += [f"X-Envelope-User: {session.auth_data.login.decode()}"] if session.auth_data else []
        name = f"{next(numbers):06}.eml"
        partial = dir / "mails" / f".{name}"
        partial.write_bytes("".join(line + "\r\n" for line in head).encode() + envelope.content)
        partial.rename(dir / "mails" / name)
        return "250 2.0.0 queued as " + name


def authenticate(server, session, envelope, mechanism, data):
    known = (data.login, data.password) == (b"slackwater", b"s3cret")
    # handled and not successful would mean that this function has answered already
    return AuthResult(success=known, handled=known, auth_data=data)


certificate = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
certificate.load_cert_chain(dir / "tls/cert.pem", dir / "tls/key.pem")
locked = dict(authenticator=authenticate, auth_required=True)
controllers = [
    Controller(Handler(), "127.0.0.1", plain),
    Controller(Handler(), "127.0.0.1", starttls, tls_context=certificate, require_starttls=True, **locked),
    Controller(Handler(), "127.0.0.1", tls, ssl_context=certificate, auth_require_tls=False, **locked),
]
for controller in controllers:
    controller.start()
print("ready", os.getpid(), flush=True)
threading.Event().wait()
