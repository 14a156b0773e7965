"""Sends to collect with the SDKs of Segment and RudderStack, and with a signer of Standard Webhooks.

    send.py URL WRITE_KEY WEBHOOK_SECRET

Prints as JSON what failed, and the status of two webhooks: one as it was signed, one with another body.
"""
import datetime
import json
import sys
import urllib.error
import urllib.request

import rudderstack.analytics as rudder
import segment.analytics as segment
import standardwebhooks

url, key, secret = sys.argv[1:]
failed = []
for name, sdk in [("segment", segment), ("rudder", rudder)]:
    sdk.write_key = key
    sdk.on_error = lambda error, items: failed.append(str(error))
segment.host, rudder.dataPlaneUrl = url, url
segment.gzip, rudder.gzip = True, True
for name, sdk in [("segment", segment), ("rudder", rudder)]:
    account = f"{name}-python"
    sdk.group("u1", account, {"plan": "pro"})
    sdk.identify("u1", {"role": "champion"}, context={"groupId": account})
    for n in range(250):
        sdk.track(f"u{n % 3}", f"feature {n % 5}", {"count": 2}, context={"groupId": account})
    sdk.page("u1", "docs", "home")
    sdk.flush()


def sent(body, signed):
    now = datetime.datetime.now(tz=datetime.timezone.utc)
    signature = standardwebhooks.Webhook(secret).sign("m1", now, signed)
    headers = {"webhook-id": "m1", "webhook-timestamp": str(int(now.timestamp())), "webhook-signature": signature}
    request = urllib.request.Request(f"{url}/webhooks/standard", body.encode(), headers)
    try:
        return urllib.request.urlopen(request).status
    except urllib.error.HTTPError as error:
        return error.code


body = json.dumps({"event_id": "w1", "account_id": "by-webhook", "feature": "export", "occurred_at": "2026-03-01T10:00:00Z"})
print(json.dumps({"failed": failed, "signed": sent(body, body), "changed": sent(body, body + " ")}))
