#!/usr/bin/env python3
"""Measures what a large store costs: the same host, empty and full, side by side.

    tests/growth.py --bin target/release/fanfare --consumers target/bench-consumers [--orders 1000000] [--events 5000000]

Two hosts run the same consumers. One store is empty; into the other go --orders orders with --events events, copied row
by row from orders that the host itself stored. Then each in turn takes load for a few seconds, several rounds, so that a
machine whose speed drifts does so for both; medians count. Printed, and as JSON on the last line:

- ack, median and 99 %: the time of one answer
- end to end: orders a second, until no consumer has anything to do
- start: from starting the program until every consumer runs, with its compiled plugins cached
- look: `GET /v1/consumers` while a consumer is --behind events behind
- live: answers and end to end of the consumers that are at the live edge while that one catches up, at --rate orders a second,
  which is far below what a host can take: what may differ is what the one costs the others, and not that it works too

Every order must be answered 201 and handled by every consumer exactly once, or the script fails.
Needs Python 3.9 and nothing else. The load generator is Python too: it bounds the load, for both alike.
"""

import argparse
import http.client
import itertools
import json
import pathlib
import shutil
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import threading
import time

LISTENING = "fanfare is listening on "
START_SECONDS_MAX = 120
SETTLE_SECONDS_MAX = 600
LOOK_EVERY_SECONDS = 0.02
ORDER = json.dumps({
    "currency": "EUR", "customer": {"id": "C-1", "name": "Ada", "email": "ada@customers.example"},
    "lines": [{"sku": f"SKU-{n}", "title": "Something to sell", "quantity": 1, "unit_amount": 450} for n in range(3)],
    "shipping_address": {"name": "Ada", "line1": "1 Rue A", "city": "Reims", "postal_code": "51100", "country": "FR"},
})
# A UUID of version 7 for each row; all of them are older than what the host makes.
UUID = "printf('01000000-%04x-7%03x-8%03x-%012x', {0} >> 28 & 65535, {0} >> 16 & 4095, {1}, {0})"


class Host:
    def __init__(self, program, consumers, folder):
        self.program, self.folder = program, folder
        if not (folder / "consumers").exists():
            shutil.copytree(consumers, folder / "consumers")
        self.names = sorted(file.stem for file in (folder / "consumers").glob("*.wasm"))
        self.process = None

    @property
    def store(self):
        return self.folder / "data" / "fanfare.sqlite"

    def start(self):
        """Returns the seconds until every consumer runs."""
        out, log = self.folder / "host.out", self.folder / "host.log"
        began = time.monotonic()
        with open(out, "wb") as stdout, open(log, "ab") as stderr:
            self.process = subprocess.Popen(
                [self.program, "serve", "--listen", "127.0.0.1:0", "--mail-transport", "off"]
                + ["--data-dir", str(self.folder / "data"), "--consumers-dir", str(self.folder / "consumers")],
                stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr,
            )
        while time.monotonic() - began < START_SECONDS_MAX:
            if self.process.poll() is not None:
                sys.exit(f"the host ended with {self.process.returncode}:\n{log.read_text()}")
            line = out.read_text()
            if line.startswith(LISTENING) and line.endswith("\n"):
                self.address = line[len(LISTENING):].strip().removeprefix("http://")
                states = {one["name"]: one["state"] for one in self.consumers()}
                if all(states.get(name) == "running" for name in self.names):
                    return time.monotonic() - began
            time.sleep(0.002)
        sys.exit(f"the host did not start:\n{log.read_text()}")

    def stop(self):
        self.process.terminate()
        if self.process.wait() != 0:
            sys.exit(f"the host ended with {self.process.returncode}")

    def get(self, path):
        connection = http.client.HTTPConnection(self.address, timeout=60)
        connection.request("GET", path)
        answer = connection.getresponse()
        body = answer.read()
        connection.close()
        if answer.status != 200:
            sys.exit(f"{path}: {answer.status} {body!r}")
        return json.loads(body)

    def consumers(self):
        return self.get("/v1/consumers")["consumers"]

    def wait_until_idle(self, names):
        began = time.monotonic()
        while time.monotonic() - began < SETTLE_SECONDS_MAX:
            if all(one["pending"] == 0 for one in self.consumers() if one["name"] in names):
                return
            time.sleep(LOOK_EVERY_SECONDS)
        sys.exit(f"not idle after {SETTLE_SECONDS_MAX} s: {self.consumers()}")

    def load(self, connections, seconds, names=None, rate=None):
        """Returns the times of the answers, ascending, and orders a second end to end; as many as there can be without `rate`."""
        names, answers, until = names or self.names, [], time.monotonic() + seconds
        tickets = itertools.count()
        before = {one["name"]: one["done"] for one in self.consumers()}
        began = time.monotonic()

        def submit():
            connection = http.client.HTTPConnection(self.address, timeout=60)
            mine = []
            while time.monotonic() < until:
                if rate:
                    time.sleep(max(began + next(tickets) / rate - time.monotonic(), 0))
                sent = time.monotonic()
                connection.request("POST", "/v1/orders", ORDER, {"Content-Type": "application/json"})
                answer = connection.getresponse()
                answer.read()
                if answer.status != 201:
                    sys.exit(f"an order was answered {answer.status}")
                mine.append(time.monotonic() - sent)
            answers.extend(mine)

        threads = [threading.Thread(target=submit) for _ in range(connections)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.wait_until_idle(names)
        rate = len(answers) / (time.monotonic() - began)
        for one in self.consumers():
            if one["name"] in names and one["done"] - before[one["name"]] != len(answers):
                sys.exit(f"{one['name']} did {one['done'] - before[one['name']]} of {len(answers)} events")
        return sorted(answers), rate


def fill(store, orders, events):
    """Copies the first order and its event until there are so many, and moves every consumer to the end."""
    each = max(events // orders, 1)
    with sqlite3.connect(store) as db:
        db.execute("PRAGMA synchronous = OFF")
        db.execute("PRAGMA cache_size = -400000")
        number, = db.execute("SELECT max(number) FROM orders").fetchone()
        head, = db.execute("SELECT max(position) FROM events").fetchone()
        rows = "WITH RECURSIVE n (i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i + 1 < ?)"
        columns = [row[1] for row in db.execute("PRAGMA table_info(orders)")]
        new = {"number": f"{number} + 1 + i", "id": UUID.format("i", 0), "customer_id": "'C-' || (i % 50000)", "reference": "NULL"}
        db.execute(f"INSERT INTO orders ({', '.join(columns)}) {rows} SELECT {', '.join(new.get(c, 'o.' + c) for c in columns)}"
                   " FROM n, (SELECT * FROM orders LIMIT 1) AS o", (orders,))
        columns = [row[1] for row in db.execute("PRAGMA table_info(events)")]
        first = "(SELECT * FROM events WHERE kind = 'order.placed' LIMIT 1)"
        new = {"position": f"{head} + 1 + i", "id": UUID.format("i", 1), "order_number": f"{number} + 1 + i / {each}",
               "revision": f"1 + i % {each}"}
        db.execute(f"INSERT INTO events ({', '.join(columns)}) {rows} SELECT {', '.join(new.get(c, 'e.' + c) for c in columns)}"
                   f" FROM n, {first} AS e", (orders * each,))
        db.execute("DELETE FROM journal_kinds")
        db.execute("INSERT INTO journal_kinds SELECT (position - 1) / 4096, kind, count(*) FROM events WHERE"
                   " (position - 1) / 4096 < (SELECT (max(position) - 1) / 4096 FROM events) GROUP BY 1, 2")
        db.execute("UPDATE orders SET revision = ? WHERE number > ?", (each, number))
        db.execute("UPDATE consumers SET position = (SELECT max(position) FROM events), ahead = ''")
    db.close()


def fall_behind(store, name, events):
    with sqlite3.connect(store) as db:
        db.execute("UPDATE consumers SET position = max(position - ?, 0) WHERE name = ?", (events, name))
    db.close()


def percentile(ascending, share):
    return ascending[min(int(len(ascending) * share), len(ascending) - 1)] * 1e3


def compare(hosts, arguments, names=None):
    """Loads each host in turn. Returns for each the medians over the rounds."""
    rounds = [[] for _ in hosts]
    for _ in range(arguments.rounds):
        for host, seen in zip(hosts, rounds):
            answers, rate = host.load(arguments.connections, arguments.seconds, names)
            seen.append((percentile(answers, 0.5), percentile(answers, 0.99), rate))
    return [[statistics.median(values) for values in zip(*seen)] for seen in rounds]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bin", required=True)
    parser.add_argument("--consumers", required=True, type=pathlib.Path)
    parser.add_argument("--orders", type=int, default=1_000_000)
    parser.add_argument("--events", type=int, default=5_000_000)
    parser.add_argument("--behind", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("--rate", type=float, default=300)
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--folder", type=pathlib.Path, help="for the stores, on the disk to be measured")
    arguments = parser.parse_args()
    folder = pathlib.Path(tempfile.mkdtemp(prefix="growth-", dir=arguments.folder))
    empty, full = (Host(arguments.bin, arguments.consumers, folder / name) for name in ["empty", "full"])
    figures = {"orders": arguments.orders, "events": arguments.events, "behind": arguments.behind}
    try:
        for host in [empty, full]:
            (host.folder / "data").mkdir(parents=True)
            host.start()
            host.load(1, 0.2)
            host.stop()
        print(f"filling a store with {arguments.orders:,} orders and {arguments.events:,} events", flush=True)
        fill(full.store, arguments.orders, arguments.events)
        starts = {"empty": [], "full": []}
        for _ in range(3):
            for name, host in [("empty", empty), ("full", full)]:
                starts[name].append(host.start())
                host.stop()
        for host in [empty, full]:
            host.start()
            host.load(arguments.connections, 1)
        (p50, p99, rate), (full_p50, full_p99, full_rate) = compare([empty, full], arguments)
        figures.update({
            "start_empty_s": statistics.median(starts["empty"]), "start_full_s": statistics.median(starts["full"]),
            "ack_p50_ms": [p50, full_p50], "ack_p99_ms": [p99, full_p99], "end_to_end_per_s": [rate, full_rate],
            "file_mib": full.store.stat().st_size >> 20,
        })
        live = full.names[1:]
        alone, _ = full.load(arguments.connections, arguments.seconds, live, arguments.rate)
        full.stop()
        fall_behind(full.store, full.names[0], arguments.behind)
        figures["start_behind_s"] = full.start()
        began = time.monotonic()
        behind = next(one["pending"] for one in full.consumers() if one["name"] == full.names[0])
        figures["look_behind_s"] = time.monotonic() - began
        figures["pending_behind"] = behind
        beside, rate = full.load(arguments.connections, arguments.seconds, live, arguments.rate)
        still = next(one["pending"] for one in full.consumers() if one["name"] == full.names[0])
        figures.update({
            "behind_after_load": still, "live_end_to_end_per_s": rate,
            "live_ack_p50_ms": [percentile(alone, 0.5), percentile(beside, 0.5)],
            "live_ack_p99_ms": [percentile(alone, 0.99), percentile(beside, 0.99)],
        })
        for host in [empty, full]:
            host.stop()
    finally:
        for host in [empty, full]:
            if host.process and host.process.poll() is None:
                host.process.kill()
                host.process.wait()
        shutil.rmtree(folder, ignore_errors=True)
    show(figures)


def show(figures):
    print(f"\n{'':<28}{'empty':>12}{'full':>12}{'ratio':>9}")
    for name, key in [("ack, median ms", "ack_p50_ms"), ("ack, 99 % ms", "ack_p99_ms"), ("orders end to end /s", "end_to_end_per_s")]:
        empty, full = figures[key]
        print(f"{name:<28}{empty:>12.2f}{full:>12.2f}{full / empty:>9.2f}")
    print(f"{'start s':<28}{figures['start_empty_s']:>12.2f}{figures['start_full_s']:>12.2f}")
    print(f"a consumer {figures['pending_behind']:,} events behind (then {figures['behind_after_load']:,}): start "
          f"{figures['start_behind_s']:.2f} s, a look at it {figures['look_behind_s']:.3f} s; the live ones without it and meanwhile:")
    for name, key in [("ack, median ms", "live_ack_p50_ms"), ("ack, 99 % ms", "live_ack_p99_ms")]:
        alone, beside = figures[key]
        print(f"{name:<28}{alone:>12.2f}{beside:>12.2f}{beside / alone:>9.2f}")
    print(f"{'orders end to end /s':<28}{'':>12}{figures['live_end_to_end_per_s']:>12.2f}")
    print(json.dumps({key: value for key, value in figures.items()}))


if __name__ == "__main__":
    main()
