"""Stripe's own library against the Stripe of the tests: usage, customers, lists, errors, idempotency.

usage: usage.py URL KEY METER_ID, where the next requests that create something fail as `official_library.rs` says.
"""

import sys
import time

import stripe

url, key, meter_id = sys.argv[1:]


def client(secret=key, retries=0):
    return stripe.StripeClient(secret, base_addresses={"api": url}, max_network_retries=retries).v1


def refused(call, kind):
    """The error that a call ends with."""
    try:
        call()
    except kind as error:
        return error
    raise AssertionError(f"no {kind.__name__}")


# The first five requests fail in all ways that may pass: the library tries again with one key.
retrying = client(retries=8)
first = retrying.customers.create({"email": "a@example.com", "metadata": {"account": "1"}})
assert len(client().customers.list({"email": "a@example.com"}).data) == 1
print("retries: one customer")

api = client()
read = api.customers.retrieve(first.id)
assert (read.email, read.metadata["account"], read.object) == ("a@example.com", "1", "customer")
for n in range(25):
    api.customers.create({"email": f"{n}@example.com"})
assert len(list(api.customers.list({"limit": 10}).auto_paging_iter())) == 26
assert api.customers.delete(first.id).deleted
assert api.customers.retrieve(first.id).deleted
print("customers: created, listed, deleted")

options = {"idempotency_key": "key 1"}
one = api.customers.create({"email": "b@example.com"}, options)
two = api.customers.create({"email": "b@example.com"}, options)
assert one.id == two.id
refused(lambda: api.customers.create({"email": "c@example.com"}, options), stripe.IdempotencyError)
print("idempotency: one customer for a key, and an error for other parameters")

error = refused(lambda: api.customers.retrieve("cus_none"), stripe.InvalidRequestError)
assert (error.http_status, error.code, error.param) == (404, "resource_missing", "id"), error
error = refused(lambda: api.customers.create({"mail": "x"}), stripe.InvalidRequestError)
assert (error.http_status, error.code) == (400, "parameter_unknown"), error
assert refused(lambda: client("sk_test_other").customers.list(), stripe.AuthenticationError).http_status == 401
print("errors: as the library knows them")

meters = api.billing.meters.list({"status": "active"})
assert [meter.id for meter in meters.data] == [meter_id]
meter = meters.data[0]
now = int(time.time())


def report(identifier, value=7, timestamp=now, customer=one.id):
    payload = {"stripe_customer_id": customer, "value": str(value)}
    event = {"event_name": meter.event_name, "payload": payload, "identifier": identifier, "timestamp": timestamp}
    return api.billing.meter_events.create(event)


event = report("event 1")
assert (event.object, event.identifier, event.payload["value"]) == ("billing.meter_event", "event 1", "7")
report("event 2", 5)
error = refused(lambda: report("event 1"), stripe.InvalidRequestError)
assert error.http_status == 400 and "An event already exists with identifier event 1" in error.user_message, error
for timestamp in [now - 36 * 24 * 3600, now + 600]:
    assert refused(lambda: report("event 3", timestamp=timestamp), stripe.InvalidRequestError).param == "timestamp"
refused(lambda: report("event 3", value=10**15), stripe.InvalidRequestError)
refused(lambda: report("event 3", customer="cus_none"), stripe.InvalidRequestError)

until = now - now % 60 + 120
window = {"customer": one.id, "start_time": until - 3600, "end_time": until}
sums = api.billing.meters.event_summaries.list(meter_id, window)
assert [summary.aggregated_value for summary in sums.data] == [12], sums
day = {"customer": one.id, "start_time": now - now % 86400, "end_time": now - now % 86400 + 86400}
hours = api.billing.meters.event_summaries.list(meter_id, {**day, "value_grouping_window": "hour"})
assert sum(summary.aggregated_value for summary in hours.data) == 12, hours
refused(lambda: api.billing.meters.event_summaries.list(meter_id, {**window, "end_time": until + 1}), stripe.InvalidRequestError)
print("usage: counted once, added up")

plan, metered = {"price": "price_annual", "quantity": 1}, {"price": "price_metered"}


def check_out(items, billing_mode="flexible"):
    order = {"mode": "subscription", "customer": one.id, "success_url": "http://localhost", "line_items": items}
    return api.checkout.sessions.create({**order, "subscription_data": {"billing_mode": {"type": billing_mode}}})


session = check_out([plan, metered])
assert (session.status, session.amount_total) == ("open", 19000), session
error = refused(lambda: check_out([plan, {**metered, "quantity": 1}]), stripe.InvalidRequestError)
assert error.http_status == 400 and "Quantity should not be specified" in error.user_message, error
refused(lambda: check_out([{"price": "price_annual"}, metered]), stripe.InvalidRequestError)
refused(lambda: check_out([plan, metered], "classic"), stripe.InvalidRequestError)
assert [listed.id for listed in api.checkout.sessions.list({"customer": one.id, "status": "open"}).data] == [session.id]
assert api.checkout.sessions.expire(session.id).status == "expired"
refused(lambda: api.refunds.create({"payment_intent": "pi_none"}), stripe.InvalidRequestError)
print("checkouts: a plan and a metered price, without a quantity")
