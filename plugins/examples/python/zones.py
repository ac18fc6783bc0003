"""Counts orders per shipping zone, as setting `zones` has them: {"DE": 1, "FR": 1, "US": 2}."""

import json

from componentize_py_types import Err
from wit_world import exports
from wit_world.exports.handler import Description, Failure_Reject, Failure_Retry, Later, Need_Setting, Subscription
from wit_world.imports import log, settings, state
from wit_world.imports.events import Body_OrderChanged, Event


class Handler(exports.Handler):
    def describe(self) -> Description:
        return Description(
            version="1.0.0",
            state_version=1,
            summary="Counts orders per shipping zone",
            subscriptions=[Subscription("order.placed", None)],
            needs=[Need_Setting("zones")],
        )

    def handle(self, event: Event) -> None:
        if not isinstance(event.body, Body_OrderChanged):
            return
        order = event.body.value.order
        if order.shipping_address is None:
            raise Err(Failure_Reject(f"order {order.id} has no address"))
        country = order.shipping_address.country
        # What is not JSON raises: the attempt has failed, and its dead letter says so.
        zone = json.loads(settings.get("zones")).get(country)
        if zone is None:
            # Tried again later, so that the order is counted once the setting is mended.
            raise Err(Failure_Retry(Later(None, f"{country} is in no zone")))
        state.adjust([state.Adjustment(f"orders/{zone}", 1, None)])
        state.set(f"zone/{order.id}", str(zone).encode())
        log.write(log.Level.INFO, f"order {order.id} goes to zone {zone}")
