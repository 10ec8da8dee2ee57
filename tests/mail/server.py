"""A mail server: takes mails from who logs in over TLS, and prints what Python's parser finds in them, one JSON object a line.

Arguments: `tls` from the start or `starttls`, a certificate and its key. Prints its port first.
"""

import asyncio
import email
import email.policy
import json
import ssl
import sys

from aiosmtpd.smtp import SMTP, AuthResult

mode, certificate, key = sys.argv[1:]
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(certificate, key)


class Handler:
    async def handle_DATA(self, server, session, envelope):
        message = email.message_from_bytes(envelope.content, policy=email.policy.default)
        parts = {part.get_content_type(): part.get_content().replace("\r\n", "\n") for part in message.walk() if not part.is_multipart()}
        defects = [repr(d) for part in message.walk() for d in part.defects]
        defects += [repr(d) for value in message.values() for d in value.defects]
        found = {
            "envelope_from": envelope.mail_from, "envelope_to": envelope.rcpt_tos, "from": str(message["From"]),
            "to": str(message["To"]), "subject": str(message["Subject"]), "id": str(message["Message-ID"]),
            "date": message["Date"].datetime.isoformat(), "type": message.get_content_type(), "parts": parts,
            "longest": max(len(line) for line in envelope.content.split(b"\r\n")), "defects": defects,
            "is_encrypted": mode == "tls" or session.ssl is not None, "login": session.auth_data.login.decode(),
        }
        print(json.dumps(found), flush=True)
        return "250 taken"


def authenticate(server, session, envelope, mechanism, data):
    return AuthResult(success=(data.login, data.password) == (b"mailer", b"pass word/1"), auth_data=data)


async def serve():
    settings = dict(authenticator=authenticate, auth_required=True, enable_SMTPUTF8=True)
    if mode == "starttls":
        settings.update(tls_context=context, require_starttls=True)
    else:
        # The connection is encrypted before anything is asked.
        settings.update(auth_require_tls=False)
    server = await asyncio.get_running_loop().create_server(
        lambda: SMTP(Handler(), **settings), "127.0.0.1", 0, ssl=context if mode == "tls" else None)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


asyncio.run(serve())
