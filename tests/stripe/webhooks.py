"""Stripe's own library and signatures of web-hooks, in both directions.

usage: webhooks.py SIGNED WEB SECRET, where SIGNED are JSON lists of header and body as the Stripe of the tests signs them, and
WEB is the web-hook's address at a textgen with this secret.
"""

import json
import sys
import time
import urllib.error
import urllib.request

import stripe

signed, web, secret = sys.argv[1:]


def library_takes(header, body):
    try:
        stripe.Webhook.construct_event(body, header, secret)
        return True
    except stripe.SignatureVerificationError:
        return False


def textgen_takes(header, body):
    request = urllib.request.Request(web, body.encode(), {"Stripe-Signature": header})
    try:
        return urllib.request.urlopen(request).status == 200
    except urllib.error.HTTPError as error:
        assert error.code == 400, error
        return False


for header, body in json.loads(signed):
    assert library_takes(header, body), header
print("what the Stripe of the tests signs, the library takes")

body = json.dumps({"id": "evt_1", "object": "event", "type": "payout.paid", "created": 1, "data": {"object": {"id": "po_1"}}})


def sign(time, secret=secret, body=body):
    return stripe.WebhookSignature._compute_signature(f"{time}.{body}", secret)


now = int(time.time())
good, other = sign(now), sign(now, "whsec_other")
expected = {
    f"t={now},v1={good}": True,
    f"t={now},v1={other},v1={good}": True,
    f"t={now},v0={other},v1={good}": True,
    f"v1={good},t={now}": True,
    f"t={now - 200},v1={sign(now - 200)}": True,
    f"t={now + 200},v1={sign(now + 200)}": True,
    f"t={now},v1={other}": False,
    f"t={now},v0={good}": False,
    f"t={now + 1},v1={good}": False,
    f"t={now - 400},v1={sign(now - 400)}": False,
    f"t={now},v1={good.upper()}": False,
    f"t={now},v1={sign(now, body=body + ' ')}": False,
    f"t={now}": False,
    f"v1={good}": False,
    "nonsense": False,
}
for header, takes in expected.items():
    assert library_takes(header, body) == takes, header
    assert textgen_takes(header, body) == takes, header
print(f"{len(expected)} signatures: the library and textgen agree")
