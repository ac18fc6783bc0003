// Counts orders per shipping zone, as setting `zones` has them: {"DE": 1, "FR": 1, "US": 2}.

import { write } from "fanfare:consumer/log@0.1.0";
import { get as setting } from "fanfare:consumer/settings@0.1.0";
import { adjust, set } from "fanfare:consumer/state@0.1.0";

export const handler = {
  describe() {
    return {
      version: "1.0.0",
      stateVersion: 1,
      summary: "Counts orders per shipping zone",
      subscriptions: [{ kind: "order.placed" }],
      needs: [{ tag: "setting", val: "zones" }],
    };
  },

  handle(event) {
    if (event.body.tag !== "order-changed") return;
    const { order } = event.body.val;
    if (!order.shippingAddress) throw { tag: "reject", val: `order ${order.id} has no address` };
    const { country } = order.shippingAddress;
    // What is not JSON throws: the attempt has failed, and its dead letter says so.
    const zone = JSON.parse(setting("zones"))[country];
    // Tried again later, so that the order is counted once the setting is mended.
    if (zone === undefined) throw { tag: "retry", val: { reason: `${country} is in no zone` } };
    adjust([{ key: `orders/${zone}`, by: 1n }]);
    set(`zone/${order.id}`, new TextEncoder().encode(zone));
    write("info", `order ${order.id} goes to zone ${zone}`);
  },
};
