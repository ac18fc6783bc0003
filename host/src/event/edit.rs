//! What a person may change in the copy of an event that one consumer gets in its place. Pure.
//!
//! Of a custom event, its data. Of an order change, the content of the order as that consumer sees it, under the same rules
//! as a new order; which order it is, where it stands and what changed are facts, and stay.

use std::borrow::Cow;
use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::{Body, Custom, Event, check_data};
use crate::clock::Timestamp;
use crate::order::Order;
use crate::order::draft::{CheckedOrder, Draft, FieldError, Mode, Object};

/// Members of an order that say which one it is and where it stands.
const FACTS: [&str; 4] = ["id", "status", "revision", "placed_at"];

/// `data` of an order change, as the event shows it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OrderData {
    order: Map<String, Value>,
    change: Option<Value>,
}

/// The body of `event` with `data` in place of its own.
///
/// # Errors
/// Each member of `data` that is wrong, or that is not a person's to change.
pub fn edited(event: &Event, data: Box<RawValue>) -> Result<Body, Vec<FieldError>> {
    let (order, change) = match &event.body {
        Body::Custom(custom) => {
            check_data(data.get())
                .map_err(|error| fault("data", format!("holds what no consumer could read: {error}")))?;
            return Ok(Body::Custom(Custom { data: data.into(), ..custom.clone() }));
        }
        Body::OrderChanged { order, change } => (order, change),
    };
    let OrderData { order: mut edited, change: told } =
        read("data", &mut serde_json::Deserializer::from_str(data.get()))?;
    let mut faults = Vec::new();
    if told.is_some_and(|told| serde_json::to_value(change).ok() != Some(told)) {
        faults.extend(fault("data.change", FIXED));
    }
    let original = serde_json::to_value(order).unwrap_or_default();
    for fact in FACTS {
        if edited.remove(fact).is_some_and(|told| original.get(fact) != Some(&told)) {
            faults.extend(fault(&format!("data.order.{fact}"), FIXED));
        }
    }
    if !faults.is_empty() {
        return Err(faults);
    }
    let draft: Draft = read("data.order", Value::from(edited))?;
    let CheckedOrder { content, .. } = draft.check(Timestamp::now(), Mode::Submit).map_err(|faults| {
        let within = |it: FieldError| FieldError { field: format!("data.order.{}", it.field), ..it };
        faults.into_iter().map(within).collect::<Vec<_>>()
    })?;
    let order = Order { content: Arc::new(content), ..order.clone() };
    Ok(Body::OrderChanged { order, change: change.clone() })
}

const FIXED: &str = "cannot be edited: leave it out, or as it is";

fn fault(field: &str, detail: impl Into<Cow<'static, str>>) -> Vec<FieldError> {
    vec![FieldError { field: field.to_owned(), detail: detail.into() }]
}

/// A `T` out of an object, or what is wrong with it, by the field under `at`.
fn read<'de, T: DeserializeOwned>(
    at: &str,
    from: impl Deserializer<'de, Error = serde_json::Error>,
) -> Result<T, Vec<FieldError>> {
    serde_path_to_error::deserialize(from).map(|Object(read)| read).map_err(|error| {
        let field = match error.path().to_string() {
            whole if whole == "." => at.to_owned(),
            part => format!("{at}.{part}"),
        };
        let (error, text) = (error.inner(), error.inner().to_string());
        // A person has a file with a field, and no line of what was sent.
        let told = text.strip_suffix(&format!(" at line {} column {}", error.line(), error.column()));
        fault(&field, format!("has another shape than the event's: {}", told.unwrap_or(&text)))
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::event::{EventId, Position};
    use crate::order::{Change, Content, Customer, Line, Status};

    fn changed() -> Event {
        let content = Content {
            reference: Some("R-1".into()),
            currency: "EUR".into(),
            customer: Customer { id: "c-1".into(), name: None, email: None, phone: None },
            lines: vec![Line { sku: "A".into(), title: None, quantity: 2, unit_amount: 100, discount_amount: 0 }],
            total_amount: 200,
            shipping_address: None,
            metadata: std::collections::BTreeMap::default(),
        };
        let placed = Order::place(Arc::new(content), Timestamp::now());
        let change = Change::Confirmed {};
        let order = placed.after(&change).unwrap();
        event(Body::OrderChanged { order, change })
    }

    fn event(body: Body) -> Event {
        let id = EventId::generate();
        Event { id, position: Position::FIRST, time: Timestamp::now(), cause: None, depth: 0, body }
    }

    fn data(value: &Value) -> Box<RawValue> {
        RawValue::from_string(value.to_string()).unwrap()
    }

    fn shown(event: &Event) -> Value {
        serde_json::to_value(event).unwrap()["data"].take()
    }

    fn refused(event: &Event, value: &Value) -> Vec<(String, String)> {
        let faults = edited(event, data(value)).unwrap_err();
        faults.into_iter().map(|fault| (fault.field, fault.detail.into_owned())).collect()
    }

    #[test]
    fn the_content_of_an_order_may_be_edited_and_its_facts_stay() {
        let event = changed();
        let mut value = shown(&event);
        value["order"]["lines"][0]["quantity"] = json!(1);
        value["order"]["total_amount"] = json!(100);
        value["order"]["metadata"] = json!({"note": "mended"});
        let Body::OrderChanged { order, change } = edited(&event, data(&value)).unwrap() else { panic!() };
        assert_eq!((order.content.lines[0].quantity, order.content.total_amount), (1, 100));
        assert_eq!(order.content.metadata["note"], "mended");
        assert_eq!((Some(order.id), order.status, order.revision), (event.order_id(), Status::Confirmed, 2));
        assert_eq!(change, Change::Confirmed {});
    }

    #[test]
    fn a_copy_that_is_not_edited_is_the_event() {
        let event = changed();
        let body = edited(&event, data(&shown(&event))).unwrap();
        assert_eq!(shown(&Event { body, ..event.clone() }), shown(&event));
    }

    #[test]
    fn what_happened_is_not_a_persons_to_change() {
        let event = changed();
        for (path, fact) in [("/order/status", json!("shipped")), ("/order/revision", json!(7)), ("/change", json!({}))]
        {
            let mut value = shown(&event);
            *value.pointer_mut(path).unwrap() = fact;
            let faults = refused(&event, &value);
            assert_eq!(faults.len(), 1, "{faults:?}");
            assert_eq!(faults[0], (format!("data{}", path.replace('/', ".")), FIXED.to_owned()));
        }
    }

    #[test]
    fn an_order_that_could_not_be_placed_is_refused_by_field() {
        let event = changed();
        let mut value = shown(&event);
        value["order"]["lines"][0]["quantity"] = json!(0);
        assert_eq!(refused(&event, &value)[0].0, "data.order.lines[0].quantity");
        value = shown(&event);
        value["order"]["lines"][0]["quantity"] = json!(5);
        assert_eq!(refused(&event, &value)[0].0, "data.order.total_amount");
        for wrong in [json!({"order": {"colour": "red"}}), json!({"colour": "red"}), json!([1])] {
            assert!(refused(&event, &wrong)[0].0.starts_with("data"), "{wrong}");
        }
    }

    #[test]
    fn another_shape_is_told_by_its_field_without_the_words_of_a_parser() {
        let event = changed();
        let mut wrong = shown(&event);
        wrong["order"]["lines"][0]["quantity"] = json!("two");
        let told = |value: &Value| refused(&event, value).remove(0);
        let shape = |field: &str, what: &str| (field.to_owned(), format!("has another shape than the event's: {what}"));
        let quantity = "invalid type: string \"two\", expected i64";
        assert_eq!(told(&wrong), shape("data.order.lines[0].quantity", quantity));
        assert_eq!(told(&json!({"order": 7})), shape("data.order", "invalid type: integer `7`, expected a map"));
        // The order of the fields of a struct here is nobody's to rely on.
        for array in [json!([1]), json!([shown(&event)["order"], null])] {
            assert_eq!(told(&array), shape("data", "invalid type: sequence, expected an object"));
        }
    }

    #[test]
    fn the_data_of_a_custom_event_may_be_anything_that_can_be_read() {
        let custom = Custom {
            kind: "com.example.a".into(),
            source: "/shop".into(),
            origin_id: None,
            subject: "s".into(),
            order_id: None,
            data: data(&json!({"n": 1})).into(),
        };
        let event = event(Body::Custom(custom));
        let Body::Custom(copy) = edited(&event, data(&json!([2]))).unwrap() else { panic!() };
        assert_eq!((copy.data.get(), &*copy.subject), ("[2]", "s"));
        let half = RawValue::from_string(r#"["\ud800"]"#.to_owned()).unwrap();
        assert_eq!(edited(&event, half).unwrap_err()[0].field, "data");
    }
}
