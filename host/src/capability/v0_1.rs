//! The imports of `fanfare:consumer@0.1` on a [`Handling`].

use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use wasmtime::component::HasData;

use super::outbox::Draft;
use super::{GuestLog, Handling, Level, Refusal, Shortage, Stop};
use crate::backend;
use crate::effects::{Adjustment, Message};
use crate::order::{Change, Order, Shipment, Status};
use crate::sandbox::contract::v0_1 as wit;
use crate::sandbox::cpu::CpuMeter;

/// A store that has not answered a read by then does not.
const READ_MAX: Duration = Duration::from_secs(60);

/// What the imports need of a store's data.
pub struct Imports<'a> {
    /// `None` while the guest starts or describes itself.
    pub handling: Option<&'a mut Handling>,
    pub log: &'a GuestLog,
    pub meter: &'a CpuMeter,
}

/// Names [`Imports`] to the linker.
pub struct HasImports;

impl HasData for HasImports {
    type Data<'a> = Imports<'a>;
}

impl Imports<'_> {
    /// What a call works on that hands over so many `bytes`.
    pub(super) fn handling(&mut self, bytes: usize) -> Result<&mut Handling, Stop> {
        let handling = self.handling.as_deref_mut().ok_or_else(|| {
            Stop::grant(
                "a plugin has its capabilities in `handle` only, not in `describe` or while it starts".to_owned(),
            )
        })?;
        handling.budget.called(bytes);
        Ok(handling)
    }

    /// As [`Imports::handling`], for a call that reads; and what the time of the reading is counted by.
    fn reading(&mut self, bytes: usize) -> Result<(&mut Handling, &CpuMeter), Stop> {
        let meter = self.meter;
        Ok((self.handling(bytes)?, meter))
    }
}

/// What the store answers a read. Where it has no answer at once, too long a wait for it is not the guest's own time.
async fn answer<T>(meter: &CpuMeter, read: impl Future<Output = Result<T, Stop>>) -> Result<T, Stop> {
    let mut read = pin!(read);
    if let Poll::Ready(answer) = poll_fn(|context| Poll::Ready(read.as_mut().poll(context))).await {
        return answer;
    }
    let _reading = meter.read();
    tokio::time::timeout(READ_MAX, read).await.unwrap_or_else(|_| {
        let why = format!("the store did not answer a read within {READ_MAX:?}");
        Err(Stop::Store(backend::Error::Unavailable(why.into())))
    })
}

impl wit::state::Host for Imports<'_> {
    async fn get(&mut self, key: String) -> wasmtime::Result<Option<Vec<u8>>> {
        let (handling, meter) = self.reading(key.len())?;
        Ok(answer(meter, handling.get(&key)).await?.map(|value| value.to_vec()))
    }

    fn set(&mut self, key: String, value: Vec<u8>) -> wasmtime::Result<()> {
        Ok(self.handling(key.len() + value.len())?.put(key, Some(value))?)
    }

    fn delete(&mut self, key: String) -> wasmtime::Result<()> {
        Ok(self.handling(key.len())?.put(key, None)?)
    }

    async fn scan(
        &mut self,
        prefix: String,
        after: Option<String>,
        limit: u32,
    ) -> wasmtime::Result<Vec<wit::state::Entry>> {
        let bytes = prefix.len() + len(after.as_ref());
        let (handling, meter) = self.reading(bytes)?;
        let page = answer(meter, handling.scan(&prefix, after.as_deref(), limit)).await?;
        let entry = |(key, value): (std::sync::Arc<str>, std::sync::Arc<[u8]>)| wit::state::Entry {
            key: key.as_ref().to_owned(),
            value: value.to_vec(),
        };
        Ok(page.into_iter().map(entry).collect())
    }

    async fn count(&mut self, key: String) -> wasmtime::Result<i64> {
        let (handling, meter) = self.reading(key.len())?;
        Ok(answer(meter, handling.count(&key)).await?)
    }

    async fn scan_counts(
        &mut self,
        prefix: String,
        after: Option<String>,
        limit: u32,
    ) -> wasmtime::Result<Vec<wit::state::Counter>> {
        let bytes = prefix.len() + len(after.as_ref());
        let (handling, meter) = self.reading(bytes)?;
        let page = answer(meter, handling.scan_counts(&prefix, after.as_deref(), limit)).await?;
        Ok(page.into_iter().map(|(key, value)| wit::state::Counter { key: key.as_ref().to_owned(), value }).collect())
    }

    async fn adjust(
        &mut self,
        adjustments: Vec<wit::state::Adjustment>,
    ) -> wasmtime::Result<Result<(), wit::state::Shortage>> {
        let bytes = adjustments.iter().map(|adjustment| size_of_val(adjustment) + adjustment.key.len()).sum();
        let adjustments = adjustments
            .into_iter()
            .map(|wit::state::Adjustment { key, by, floor }| Adjustment { key: key.into(), by, floor })
            .collect();
        let (handling, meter) = self.reading(bytes)?;
        let adjusted = answer(meter, handling.adjust(adjustments)).await?;
        Ok(adjusted.map_err(|Shortage { key, available }| wit::state::Shortage { key, available }))
    }
}

impl wit::journal::Host for Imports<'_> {
    async fn get_order(&mut self, id: String) -> wasmtime::Result<Option<wit::journal::Order>> {
        let (handling, meter) = self.reading(id.len())?;
        Ok(answer(meter, handling.order(&id)).await?.map(|order| lower_order(&order)))
    }
}

impl wit::outbox::Host for Imports<'_> {
    async fn change_order(
        &mut self,
        order_id: String,
        change: wit::outbox::Change,
    ) -> wasmtime::Result<Result<(), wit::outbox::Refusal>> {
        let bytes = order_id.len() + change_bytes(&change);
        let (handling, meter) = self.reading(bytes)?;
        let changed = answer(meter, handling.change_order(&order_id, lift_change(change))).await?;
        Ok(changed.map_err(|refusal| match refusal {
            Refusal::UnknownOrder => wit::outbox::Refusal::UnknownOrder,
            Refusal::Illegal(status) => wit::outbox::Refusal::Illegal(lower_status(status)),
        }))
    }

    fn publish(&mut self, event: wit::outbox::Custom) -> wasmtime::Result<()> {
        let bytes = custom_bytes(&event);
        let wit::outbox::Custom { kind, subject, order_id, data } = event;
        Ok(self.handling(bytes)?.publish(Draft { kind, subject, order_id, data })?)
    }

    fn send(&mut self, message: wit::outbox::Message) -> wasmtime::Result<()> {
        let (bytes, message) = match message {
            wit::outbox::Message::Email(wit::outbox::Email { to, subject, text, html }) => {
                (to.len() + subject.len() + text.len() + len(html.as_ref()), Message::Email { to, subject, text, html })
            }
            wit::outbox::Message::Sms(wit::outbox::Sms { to, text }) => {
                (to.len() + text.len(), Message::Sms { to, text })
            }
        };
        Ok(self.handling(bytes)?.send(message)?)
    }
}

impl wit::records::Host for Imports<'_> {
    fn append(&mut self, dataset: String, row: String) -> wasmtime::Result<Result<(), String>> {
        Ok(self.handling(dataset.len() + row.len())?.append(&dataset, &row)?)
    }
}

impl wit::settings::Host for Imports<'_> {
    fn get(&mut self, name: String) -> wasmtime::Result<Option<String>> {
        Ok(self.handling(name.len())?.setting(&name).map(str::to_owned))
    }
}

impl wit::log::Host for Imports<'_> {
    fn write(&mut self, level: wit::log::Level, message: String) -> wasmtime::Result<()> {
        let level = match level {
            wit::log::Level::Debug => Level::Debug,
            wit::log::Level::Info => Level::Info,
            wit::log::Level::Warn => Level::Warn,
            wit::log::Level::Error => Level::Error,
        };
        // Where there is no event, there is nobody to tell.
        if let Some(handling) = &mut self.handling {
            handling.budget.called(message.len());
        }
        self.log.write(level, &message);
        Ok(())
    }
}

// Interfaces of types alone.
impl wit::orders::Host for Imports<'_> {}
impl wit::events::Host for Imports<'_> {}

fn len(text: Option<&String>) -> usize {
    text.map_or(0, String::len)
}

fn change_bytes(change: &wit::outbox::Change) -> usize {
    use wit::outbox::Change as Wit;
    match change {
        Wit::Placed | Wit::Confirmed | Wit::Delivered => 0,
        Wit::Rejected(reason) | Wit::Cancelled(reason) => reason.len(),
        Wit::Shipped(wit::events::ShipmentResult { carrier, tracking_number, tracking_url }) => {
            carrier.len() + tracking_number.len() + len(tracking_url.as_ref())
        }
        Wit::Other(custom) => custom_bytes(custom),
    }
}

fn custom_bytes(custom: &wit::outbox::Custom) -> usize {
    let wit::outbox::Custom { kind, subject, order_id, data } = custom;
    kind.len() + subject.len() + len(order_id.as_ref()) + data.len()
}

fn lift_change(change: wit::outbox::Change) -> Option<Change> {
    use wit::outbox::Change as Wit;
    Some(match change {
        Wit::Placed => Change::Placed {},
        Wit::Confirmed => Change::Confirmed {},
        Wit::Rejected(reason) => Change::Rejected { reason },
        Wit::Shipped(wit::events::ShipmentResult { carrier, tracking_number, tracking_url }) => {
            Change::Shipped(Shipment { carrier, tracking_number, tracking_url })
        }
        Wit::Delivered => Change::Delivered {},
        Wit::Cancelled(reason) => Change::Cancelled { reason },
        Wit::Other(_) => return None,
    })
}

fn lower_status(status: Status) -> wit::orders::StatusResult {
    use wit::orders::StatusResult as Wit;
    match status {
        Status::Placed => Wit::Placed,
        Status::Confirmed => Wit::Confirmed,
        Status::Rejected => Wit::Rejected,
        Status::Shipped => Wit::Shipped,
        Status::Delivered => Wit::Delivered,
        Status::Cancelled => Wit::Cancelled,
    }
}

fn lower_order(order: &Order) -> wit::journal::Order {
    let content = &*order.content;
    wit::journal::Order {
        id: order.id.to_string(),
        reference: content.reference.clone(),
        status: lower_status(order.status),
        revision: order.revision,
        placed_at: order.placed_at.as_millis(),
        currency: content.currency.clone(),
        customer: wit::orders::CustomerResult {
            id: content.customer.id.clone(),
            name: content.customer.name.clone(),
            email: content.customer.email.clone(),
            phone: content.customer.phone.clone(),
        },
        lines: content
            .lines
            .iter()
            .map(|line| wit::orders::LineResult {
                sku: line.sku.clone(),
                title: line.title.clone(),
                quantity: line.quantity,
                unit_amount: line.unit_amount,
                discount_amount: line.discount_amount,
            })
            .collect(),
        total_amount: content.total_amount,
        shipping_address: content.shipping_address.as_ref().map(|address| wit::orders::AddressResult {
            name: address.name.clone(),
            line1: address.line1.clone(),
            line2: address.line2.clone(),
            city: address.city.clone(),
            region: address.region.clone(),
            postal_code: address.postal_code.clone(),
            country: address.country.clone(),
        }),
        metadata: content.metadata.iter().map(|(key, value)| (key.clone(), value.clone())).collect(),
    }
}
