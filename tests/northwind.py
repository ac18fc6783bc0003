#!/usr/bin/env python3
"""Runs a shop's real history through a host and checks every consumer's books against its own.

    tests/northwind.py FOLDER --bin target/debug/fanfare --consumers target/consumers [--kill]
    tests/northwind.py FOLDER --url http://127.0.0.1:8080 [--mail data/mail]

FOLDER holds `products.jsonl` (sku, in_stock, on_order) and `orders.jsonl` (orders as POST /v1/orders takes them, each
with a reference and, perhaps, placed_at). The script loads the stock, imports the orders, waits until nothing is
pending and recomputes from the file and the outcomes what inventory, shipment, loyalty, analytics and notification
must hold (plugins/README.md). With --kill the host is killed by SIGKILL in the middle of the import, started again,
and the same import is sent again. It prints every disagreement and exits 1 if there is one.

With --url the host must be fresh and run the five consumers with the side files that come with them.
Needs Python 3.9 and nothing else.
"""

import argparse
import collections
import email.parser
import email.policy
import http.client
import json
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse

CONSUMERS = ["analytics", "inventory", "loyalty", "notification", "shipment"]
LISTENING = "fanfare is listening on "
START_SECONDS_MAX = 60
# 830 orders are 2,500 events; a slow machine with an unoptimised host handles some hundreds a second.
SETTLE_SECONDS_MAX = 300
# A line that a busy store has no answer for is sent again, with all others.
TRIES_MAX = 10
LOOK_EVERY_SECONDS = 0.05
# With --kill: SIGKILL once so many of the orders are there, of an import that is sent no faster than this.
KILL_AT_SHARE = 0.4
LINE_EVERY_SECONDS = 0.002


class Host:
    """The program, serving from folders of its own."""

    def __init__(self, program, consumers):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="northwind-"))
        self.program = program
        shutil.copytree(consumers, self.folder / "consumers")
        self.process = None
        self.start()

    @property
    def mail(self):
        return self.folder / "data" / "mail"

    def start(self):
        out, log = self.folder / "host.out", self.folder / "host.log"
        with open(out, "wb") as stdout, open(log, "ab") as stderr:
            self.process = subprocess.Popen(
                [self.program, "serve", "--listen", "127.0.0.1:0"]
                + ["--data-dir", str(self.folder / "data"), "--consumers-dir", str(self.folder / "consumers")],
                stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr,
            )

        def address():
            if self.process.poll() is not None:
                sys.exit(f"the host ended with {self.process.returncode}:\n{log.read_text()}")
            lines = out.read_text().splitlines(keepends=True)
            return next((line[len(LISTENING):].strip() for line in lines
                         if line.startswith(LISTENING) and line.endswith("\n")), None)

        self.url = wait("the host listens", START_SECONDS_MAX, address)

    def kill(self):
        self.process.kill()
        self.process.wait()

    def end(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(timeout=START_SECONDS_MAX)
        shutil.rmtree(self.folder)


class Client:
    def __init__(self, url):
        self.host = urllib.parse.urlsplit(url).netloc

    def call(self, method, path, body=None, kind="application/json"):
        connection = http.client.HTTPConnection(self.host, timeout=SETTLE_SECONDS_MAX)
        try:
            connection.request(method, path, body, {"Content-Type": kind} if body else {})
            answer = connection.getresponse()
            text = answer.read().decode()
        finally:
            connection.close()
        if answer.status >= 300:
            raise RuntimeError(f"{method} {path}: {answer.status} {text}")
        return text

    def pages(self, path, *lists):
        """Every page of one or more lists that are turned over together."""
        found = {name: [] for name in lists}
        after = ""
        while True:
            page = json.loads(self.call("GET", path + after))
            for name in lists:
                found[name] += page[name]
            if not page.get("next"):
                return [found[name] for name in lists]
            after = ("&" if "?" in path else "?") + "after=" + urllib.parse.quote(page["next"], safe="")

    def consumers(self):
        return json.loads(self.call("GET", "/v1/consumers"))["consumers"]

    def orders(self):
        return self.pages("/v1/orders?limit=500", "orders")[0]

    def state(self, consumer):
        """Entries and counters of a consumer, by key."""
        entries, counters = self.pages(f"/v1/consumers/{consumer}/state?limit=500", "entries", "counters")
        pair = lambda found: {one["key"]: one["value"] for one in found}
        return pair(entries), pair(counters)

    def publish(self, events):
        self.call("POST", "/v1/events", json.dumps(events), "application/cloudevents-batch+json")

    def import_orders(self, ndjson):
        """The result of each line."""
        text = self.call("POST", "/v1/orders:import", ndjson, "application/x-ndjson")
        return [json.loads(line) for line in text.splitlines()]

    def import_all_orders(self, ndjson):
        """The result of each line, where a store that is busy is asked once more."""
        for _ in range(TRIES_MAX):
            results = self.import_orders(ndjson)
            if all(result.get("problem", {}).get("status") != 503 for result in results):
                break
        return results

    def wait_until_running(self):
        def running():
            states = {one["name"]: one["state"] for one in self.consumers()}
            return all(states.get(name) == "running" for name in CONSUMERS)
        wait(f"{', '.join(CONSUMERS)} run", START_SECONDS_MAX, running)

    def wait_until_idle(self):
        before = None

        # Consumers are listed one after another: only what two looks see alike is the state of all at one moment.
        def idle():
            nonlocal before
            now = self.consumers()
            steady, before = now == before, now
            return steady and all(one["pending"] == 0 for one in now)
        wait("nothing is pending", SETTLE_SECONDS_MAX, idle)


class Check:
    """Collects disagreements."""

    def __init__(self):
        self.disagreements = []

    def equal(self, what, here, there):
        if here != there:
            self.disagreements.append(f"{what}: {there!r}, computed {here!r}")

    def same(self, what, computed, held):
        """Two dictionaries, key by key. A counter that is not there is 0."""
        for key in sorted(computed.keys() | held.keys()):
            self.equal(f"{what} {key}", computed.get(key) or 0, held.get(key) or 0)

    def true(self, what, holds):
        if not holds:
            self.disagreements.append(what)


def wait(what, seconds, look):
    end = time.monotonic() + seconds
    while True:
        found = look()
        if found:
            return found
        if time.monotonic() > end:
            sys.exit(f"not within {seconds} s: {what}")
        time.sleep(LOOK_EVERY_SECONDS)


def read(path):
    with open(path, encoding="utf-8") as lines:
        return [json.loads(line) for line in lines if line.strip()]


def total(order):
    return sum(line["quantity"] * line["unit_amount"] - line.get("discount_amount", 0) for line in order["lines"])


def units(order):
    taken = collections.Counter()
    for line in order["lines"]:
        taken[line["sku"]] += line["quantity"]
    return taken


def consignment_number(order_id):
    """FF and the 64-bit FNV-1a hash of the order id in 13 digits of Crockford's base 32."""
    digest = 0xCBF29CE484222325
    for byte in order_id.encode():
        digest = (digest ^ byte) * 0x100000001B3 % 2**64
    digits = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
    return "FF" + "".join(digits[digest >> 5 * place & 31] for place in reversed(range(13)))


def load_stock(client, products):
    loaded = {product["sku"]: product["in_stock"] + product["on_order"] for product in products}
    client.publish([
        {"specversion": "1.0", "id": f"northwind-{sku}", "source": "/northwind", "subject": sku,
         "type": "com.fanfare.stock.received", "data": {"sku": sku, "quantity": quantity}}
        for sku, quantity in loaded.items() if quantity
    ])
    client.wait_until_idle()
    return loaded


def import_and_kill(host, client, orders, ndjson):
    """Kills the host in the middle of an import. What the import was told does not matter: it will be sent again."""
    def slowly():
        for line in ndjson.splitlines(keepends=True):
            time.sleep(LINE_EVERY_SECONDS)
            yield line.encode()

    def send():
        try:
            client.import_orders(slowly())
        except (OSError, http.client.HTTPException):
            pass
    sender = threading.Thread(target=send)
    sender.start()
    enough = int(len(orders) * KILL_AT_SHARE)
    there = wait("the import is under way", SETTLE_SECONDS_MAX, lambda: (n := len(client.orders())) >= enough and n)
    if not sender.is_alive():
        sys.exit("the import was over before the host could be killed")
    host.kill()
    sender.join()
    print(f"killed the host when {there} of {len(orders)} orders were there")
    host.start()
    client = Client(host.url)
    client.wait_until_running()
    return client


def check_orders(check, orders, held):
    """Every order is there once, as it was sent, shipped or rejected. Returns [(sent, held)]."""
    by_reference = collections.defaultdict(list)
    for order in held:
        by_reference[order.get("reference")].append(order)
    pairs = []
    for sent in orders:
        found = by_reference.pop(sent["reference"], [])
        check.equal(f"orders with reference {sent['reference']}", 1, len(found))
        pairs += [(sent, order) for order in found[:1]]
    check.equal("orders that nobody sent", {}, dict(by_reference))
    for sent, order in pairs:
        name = sent["reference"]
        check.equal(f"total of {name}", total(sent), order["total_amount"])
        check.true(f"{name} is {order['status']}", order["status"] in ("shipped", "rejected"))
        check.equal(f"revision of {name}", 3 if order["status"] == "shipped" else 2, order["revision"])
    return pairs


def check_reasons(check, client, pairs):
    """An order that was rejected names what was short, and asked for that much of it."""
    for sent, order in pairs:
        if order["status"] != "rejected":
            continue
        changes = json.loads(client.call("GET", f"/v1/orders/{order['id']}"))["changes"]
        reason = next((step["change"]["rejected"]["reason"] for step in changes if "rejected" in step["change"]), "")
        short = re.findall(r"([^\s,(]+) \(wanted (\d+), left (\d+)\)", reason)
        check.true(f"{sent['reference']} was rejected without saying what was short: {reason!r}", short)
        wanted = units(sent)
        for sku, asked, left in short:
            check.equal(f"units of {sku} in {sent['reference']}", wanted.get(sku), int(asked))
            check.true(f"{sent['reference']}: {sku} was not short: {reason}", int(left) < int(asked))


def check_inventory(check, client, loaded, shipped):
    entries, counters = client.state("inventory")
    taken = collections.Counter()
    for sent, _ in shipped:
        taken.update(units(sent))
    left = {sku: quantity - taken[sku] for sku, quantity in loaded.items() if quantity}
    check.same("stock", left, {key[len("stock/"):]: units for key, units in counters.items()})
    check.true(f"more was taken than there was: {left}", min(left.values()) >= 0)
    held = {key[len("taken/"):]: as_json(value) for key, value in entries.items() if key.startswith("taken/")}
    check.same("units taken by", {order["id"]: dict(units(sent)) for sent, order in shipped}, held)


def check_loyalty(check, client, shipped):
    entries, counters = client.state("loyalty")
    points = collections.Counter()
    for sent, _ in shipped:
        points[sent["customer"]["id"]] += total(sent) // 100
    ledger = {
        f"ledger/{sent['customer']['id']}/{order['id']}":
        {"points": total(sent) // 100, "currency": sent["currency"], "total_amount": total(sent), "reversed": False}
        for sent, order in shipped
    }
    check.same("points", {f"points/{name}": sum for name, sum in points.items()}, counters)
    check.same("entry", ledger, {key: as_json(value) for key, value in entries.items() if key.startswith("ledger/")})


def check_shipment(check, client, shipped):
    entries, _ = client.state("shipment")
    consignments = {
        f"consignment/{order['id']}":
        {"carrier": "local", "tracking_number": consignment_number(order["id"]),
         "country": (sent.get("shipping_address") or {}).get("country")}
        for sent, order in shipped
    }
    check.same("entry", consignments, {key: as_json(value) for key, value in entries.items()})


def check_analytics(check, client, pairs, shipped):
    _, counters = client.state("analytics")
    computed = collections.Counter({
        "status/placed": len(pairs), "status/confirmed": len(shipped), "status/shipped": len(shipped),
        "status/rejected": len(pairs) - len(shipped),
    })
    for sent, order in pairs:
        day, currency = order["placed_at"][:10], sent["currency"]
        country = (sent.get("shipping_address") or {}).get("country", "ZZ")
        computed[f"orders/day/{day}"] += 1
        computed[f"orders/country/{country}"] += 1
        computed[f"revenue/{currency}/day/{day}"] += total(sent)
        computed[f"revenue/{currency}/country/{country}"] += total(sent)
        for line in sent["lines"]:
            amount = line["quantity"] * line["unit_amount"] - line.get("discount_amount", 0)
            computed[f"units/sku/{line['sku']}"] += line["quantity"]
            computed[f"revenue/{currency}/sku/{line['sku']}"] += amount
        if "placed_at" in sent:
            check.equal(f"day of {sent['reference']}", sent["placed_at"][:10], day)
    check.same("total", computed, counters)


def check_mail(check, folder, pairs):
    """Three letters for an order that shipped, two for one that was rejected."""
    expected = sum(3 if order["status"] == "shipped" else 2 for _, order in pairs)
    # Senders work behind the consumers.
    wait_quietly(SETTLE_SECONDS_MAX, lambda: len(list(folder.glob("*.eml"))) >= expected)
    references = {sent["reference"] for sent, _ in pairs}
    headers = email.parser.BytesHeaderParser(policy=email.policy.default)
    letters = collections.defaultdict(list)
    ids = set()
    for path in folder.glob("*.eml"):
        letter = headers.parsebytes(path.read_bytes())
        ids.add(letter["Message-ID"])
        about = references.intersection(letter["Subject"].split())
        letters[(letter["To"], about.pop() if about else None)].append(letter)
    check.equal("letters", expected, sum(map(len, letters.values())))
    check.equal("Message-IDs", expected, len(ids))
    for sent, order in pairs:
        of_order = letters[(sent["customer"]["email"], sent["reference"])]
        check.equal(f"letters about {sent['reference']}", 3 if order["status"] == "shipped" else 2, len(of_order))


def wait_quietly(seconds, look):
    """Waits; who asked finds out by itself what is missing."""
    end = time.monotonic() + seconds
    while not look() and time.monotonic() < end:
        time.sleep(LOOK_EVERY_SECONDS)


def as_json(value):
    """An entry's value as the API shows it: JSON, or a text that is JSON."""
    return json.loads(value) if isinstance(value, str) else value


def run(host, client, mail, folder, kill):
    products, orders = read(folder / "products.jsonl"), read(folder / "orders.jsonl")
    ndjson = "".join(json.dumps(order) + "\n" for order in orders)
    check = Check()
    client.wait_until_running()
    check.equal("orders before the first", 0, len(client.orders()))
    loaded = load_stock(client, products)
    begin = time.monotonic()
    if kill:
        client = import_and_kill(host, client, orders, ndjson)
    results = client.import_all_orders(ndjson)
    client.wait_until_idle()
    took = time.monotonic() - begin
    check.equal("results of the import", len(orders), len(results))
    for result in results:
        check.true(f"a line was refused: {result}", result["result"] in ("created", "exists"))

    # The same import once more changes nothing.
    again = client.import_all_orders(ndjson)
    client.wait_until_idle()
    check.equal("orders that were there at the last import", len(orders),
                sum(result["result"] == "exists" for result in again))

    pairs = check_orders(check, orders, client.orders())
    shipped = [(sent, order) for sent, order in pairs if order["status"] == "shipped"]
    check_reasons(check, client, pairs)
    check_inventory(check, client, loaded, shipped)
    check_loyalty(check, client, shipped)
    check_shipment(check, client, shipped)
    check_analytics(check, client, pairs, shipped)
    if mail:
        check_mail(check, mail, pairs)
    print(f"{len(pairs)} orders, {len(shipped)} shipped, {len(pairs) - len(shipped)} rejected, in {took:.1f} s")
    return check.disagreements


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("folder", type=pathlib.Path)
    arguments.add_argument("--url", help="a host that runs already")
    arguments.add_argument("--mail", type=pathlib.Path, help="the mail folder of the host at --url")
    arguments.add_argument("--bin", help="the program, to start a host of one's own")
    arguments.add_argument("--consumers", type=pathlib.Path, help="the folder with the five plugins")
    arguments.add_argument("--kill", action="store_true", help="SIGKILL during the import")
    given = arguments.parse_args()
    if bool(given.url) == bool(given.bin) or bool(given.bin) != bool(given.consumers) or (given.kill and given.url):
        arguments.error("give --url, or --bin and --consumers (and perhaps --kill)")

    host = Host(given.bin, given.consumers) if given.bin else None
    try:
        client = Client(host.url if host else given.url)
        disagreements = run(host, client, host.mail if host else given.mail, given.folder, given.kill)
    finally:
        if host:
            host.end()
    for disagreement in disagreements:
        print(f"disagrees: {disagreement}")
    print("everything agrees" if not disagreements else f"{len(disagreements)} disagreements")
    return 1 if disagreements else 0


if __name__ == "__main__":
    sys.exit(main())
