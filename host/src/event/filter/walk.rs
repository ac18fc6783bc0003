//! Looks at those values of an event that a filter asks for, without building the JSON that they stand in: once by
//! serializing what the host holds as a struct, once by reading what it holds as JSON.

use std::fmt::{self, Write as _};

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::ser::{self, Serialize, Serializer};

use super::rule::Decimal;
use super::{Keys, Test};

/// A value that is neither a list nor an object.
#[derive(Debug)]
pub enum Leaf<'a> {
    Null,
    Bool(bool),
    Number(Decimal),
    Text(&'a str),
}

/// What has been seen of an event.
pub struct Found<'f> {
    tests: &'f [Test],
    seen: Vec<Seen>,
    /// The key of a map that is being looked up; kept for its memory.
    key: String,
}

#[derive(Clone, Copy, Default)]
struct Seen {
    present: bool,
    matched: bool,
}

impl<'f> Found<'f> {
    pub fn new(tests: &'f [Test]) -> Self {
        Self { tests, seen: vec![Seen::default(); tests.len()], key: String::new() }
    }

    pub fn passes(&self, test: usize) -> bool {
        let (Some(seen), Some(Test { exists, .. })) = (self.seen.get(test), self.tests.get(test)) else { return false };
        seen.matched || exists.is_some_and(|wanted| wanted == seen.present)
    }

    fn see(&mut self, keys: &Keys, leaf: &Leaf<'_>) {
        for &test in &keys.tests {
            if let (Some(seen), Some(Test { rules, .. })) = (self.seen.get_mut(test), self.tests.get(test)) {
                seen.present = true;
                seen.matched = seen.matched || rules.iter().any(|rule| rule.matches(leaf));
            }
        }
    }
}

/// Stands at one place of an event.
pub struct Walk<'w, 'f> {
    keys: &'f Keys,
    found: &'w mut Found<'f>,
}

/// Looks at `value` as JSON would show it.
pub fn serialized(value: &impl Serialize, walk: Walk<'_, '_>) {
    // What cannot be serialized has no values to look at.
    let _ = value.serialize(walk);
}

/// Looks at the JSON `text`.
pub fn parsed(text: &str, walk: Walk<'_, '_>) {
    // It is JSON already; what is nested too deep to be read is deeper than any filter asks.
    let _ = walk.deserialize(&mut serde_json::Deserializer::from_str(text));
}

impl<'w, 'f> Walk<'w, 'f> {
    pub fn new(keys: &'f Keys, found: &'w mut Found<'f>) -> Self {
        Self { keys, found }
    }

    /// The same place again.
    fn again(&mut self) -> Walk<'_, 'f> {
        Walk { keys: self.keys, found: self.found }
    }

    fn below(&mut self, key: &str) -> Option<Walk<'_, 'f>> {
        self.keys.below(key).map(|keys| Walk { keys, found: self.found })
    }

    #[allow(clippy::unnecessary_wraps, reason = "as a serializer answers")]
    fn leaf(self, leaf: &Leaf<'_>) -> Result<(), fmt::Error> {
        self.found.see(self.keys, leaf);
        Ok(())
    }

    fn text(self, text: &str) -> Result<(), fmt::Error> {
        self.leaf(&Leaf::Text(text))
    }

    fn number(self, number: impl Into<Decimal>) -> Result<(), fmt::Error> {
        self.leaf(&Leaf::Number(number.into()))
    }

    fn field(&mut self, key: &str, value: &(impl Serialize + ?Sized)) -> Result<(), fmt::Error> {
        match self.below(key) {
            Some(walk) => value.serialize(walk),
            None => Ok(()),
        }
    }
}

impl<'w, 'f> Serializer for Walk<'w, 'f> {
    type Ok = ();
    type Error = fmt::Error;
    type SerializeSeq = Self;
    type SerializeTuple = Self;
    type SerializeTupleStruct = Self;
    type SerializeTupleVariant = Variant<'w, 'f>;
    type SerializeMap = Map<'w, 'f>;
    type SerializeStruct = Self;
    type SerializeStructVariant = Variant<'w, 'f>;

    fn serialize_bool(self, v: bool) -> Result<(), fmt::Error> {
        self.leaf(&Leaf::Bool(v))
    }

    fn serialize_i8(self, v: i8) -> Result<(), fmt::Error> {
        self.number(i64::from(v))
    }

    fn serialize_i16(self, v: i16) -> Result<(), fmt::Error> {
        self.number(i64::from(v))
    }

    fn serialize_i32(self, v: i32) -> Result<(), fmt::Error> {
        self.number(i64::from(v))
    }

    fn serialize_i64(self, v: i64) -> Result<(), fmt::Error> {
        self.number(v)
    }

    fn serialize_u8(self, v: u8) -> Result<(), fmt::Error> {
        self.number(i64::from(v))
    }

    fn serialize_u16(self, v: u16) -> Result<(), fmt::Error> {
        self.number(i64::from(v))
    }

    fn serialize_u32(self, v: u32) -> Result<(), fmt::Error> {
        self.number(i64::from(v))
    }

    fn serialize_u64(self, v: u64) -> Result<(), fmt::Error> {
        self.number(v)
    }

    fn serialize_f32(self, v: f32) -> Result<(), fmt::Error> {
        self.number(f64::from(v))
    }

    fn serialize_f64(self, v: f64) -> Result<(), fmt::Error> {
        self.number(v)
    }

    fn serialize_char(self, v: char) -> Result<(), fmt::Error> {
        self.text(v.encode_utf8(&mut [0; 4]))
    }

    fn serialize_str(self, v: &str) -> Result<(), fmt::Error> {
        self.text(v)
    }

    fn serialize_bytes(self, _: &[u8]) -> Result<(), fmt::Error> {
        Ok(())
    }

    fn serialize_none(self) -> Result<(), fmt::Error> {
        self.leaf(&Leaf::Null)
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<(), fmt::Error> {
        value.serialize(self)
    }

    fn serialize_unit(self) -> Result<(), fmt::Error> {
        self.leaf(&Leaf::Null)
    }

    fn serialize_unit_struct(self, _: &'static str) -> Result<(), fmt::Error> {
        self.leaf(&Leaf::Null)
    }

    fn serialize_unit_variant(self, _: &'static str, _: u32, variant: &'static str) -> Result<(), fmt::Error> {
        self.text(variant)
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(self, _: &'static str, value: &T) -> Result<(), fmt::Error> {
        value.serialize(self)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        mut self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        value: &T,
    ) -> Result<(), fmt::Error> {
        self.field(variant, value)
    }

    fn serialize_seq(self, _: Option<usize>) -> Result<Self, fmt::Error> {
        Ok(self)
    }

    fn serialize_tuple(self, _: usize) -> Result<Self, fmt::Error> {
        Ok(self)
    }

    fn serialize_tuple_struct(self, _: &'static str, _: usize) -> Result<Self, fmt::Error> {
        Ok(self)
    }

    fn serialize_tuple_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        _: usize,
    ) -> Result<Variant<'w, 'f>, fmt::Error> {
        Ok(Variant(self.keys.below(variant).map(|keys| Walk { keys, ..self })))
    }

    fn serialize_map(self, _: Option<usize>) -> Result<Map<'w, 'f>, fmt::Error> {
        Ok(Map { walk: self, at: None })
    }

    fn serialize_struct(self, _: &'static str, _: usize) -> Result<Self, fmt::Error> {
        Ok(self)
    }

    fn serialize_struct_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        _: usize,
    ) -> Result<Variant<'w, 'f>, fmt::Error> {
        Ok(Variant(self.keys.below(variant).map(|keys| Walk { keys, ..self })))
    }
}

impl ser::SerializeSeq for Walk<'_, '_> {
    type Ok = ();
    type Error = fmt::Error;

    fn serialize_element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), fmt::Error> {
        value.serialize(self.again())
    }

    fn end(self) -> Result<(), fmt::Error> {
        Ok(())
    }
}

impl ser::SerializeTuple for Walk<'_, '_> {
    type Ok = ();
    type Error = fmt::Error;

    fn serialize_element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), fmt::Error> {
        value.serialize(self.again())
    }

    fn end(self) -> Result<(), fmt::Error> {
        Ok(())
    }
}

impl ser::SerializeTupleStruct for Walk<'_, '_> {
    type Ok = ();
    type Error = fmt::Error;

    fn serialize_field<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), fmt::Error> {
        value.serialize(self.again())
    }

    fn end(self) -> Result<(), fmt::Error> {
        Ok(())
    }
}

/// Of an enum, what stands below its name, where that is asked for.
pub struct Variant<'w, 'f>(Option<Walk<'w, 'f>>);

impl ser::SerializeTupleVariant for Variant<'_, '_> {
    type Ok = ();
    type Error = fmt::Error;

    fn serialize_field<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), fmt::Error> {
        self.0.as_mut().map_or(Ok(()), |walk| value.serialize(walk.again()))
    }

    fn end(self) -> Result<(), fmt::Error> {
        Ok(())
    }
}

impl ser::SerializeStruct for Walk<'_, '_> {
    type Ok = ();
    type Error = fmt::Error;

    fn serialize_field<T: Serialize + ?Sized>(&mut self, key: &'static str, value: &T) -> Result<(), fmt::Error> {
        self.field(key, value)
    }

    fn end(self) -> Result<(), fmt::Error> {
        Ok(())
    }
}

impl ser::SerializeStructVariant for Variant<'_, '_> {
    type Ok = ();
    type Error = fmt::Error;

    fn serialize_field<T: Serialize + ?Sized>(&mut self, key: &'static str, value: &T) -> Result<(), fmt::Error> {
        self.0.as_mut().map_or(Ok(()), |walk| walk.field(key, value))
    }

    fn end(self) -> Result<(), fmt::Error> {
        Ok(())
    }
}

/// A map, between a key and its value.
pub struct Map<'w, 'f> {
    walk: Walk<'w, 'f>,
    at: Option<&'f Keys>,
}

impl ser::SerializeMap for Map<'_, '_> {
    type Ok = ();
    type Error = fmt::Error;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), fmt::Error> {
        let text = &mut self.walk.found.key;
        text.clear();
        write!(text, "{}", Shown(key))?;
        self.at = self.walk.keys.below(text);
        Ok(())
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), fmt::Error> {
        match self.at.take() {
            Some(keys) => value.serialize(Walk { keys, found: self.walk.found }),
            None => Ok(()),
        }
    }

    fn end(self) -> Result<(), fmt::Error> {
        Ok(())
    }
}

/// A key as text: a formatter is a serializer of texts and numbers.
struct Shown<'a, T: ?Sized>(&'a T);

impl<T: Serialize + ?Sized> fmt::Display for Shown<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.serialize(f)
    }
}

impl<'de> DeserializeSeed<'de> for Walk<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

/// Seeing never fails; a visitor just has another type of error than a serializer.
fn seen<E>(result: Result<(), fmt::Error>) -> Result<(), E> {
    result.unwrap_or_default();
    Ok(())
}

impl<'de> Visitor<'de> for Walk<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E>(self, v: bool) -> Result<(), E> {
        seen(self.leaf(&Leaf::Bool(v)))
    }

    fn visit_i64<E>(self, v: i64) -> Result<(), E> {
        seen(self.number(v))
    }

    fn visit_u64<E>(self, v: u64) -> Result<(), E> {
        seen(self.number(v))
    }

    fn visit_f64<E>(self, v: f64) -> Result<(), E> {
        seen(self.number(v))
    }

    fn visit_str<E>(self, v: &str) -> Result<(), E> {
        seen(self.text(v))
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        seen(self.leaf(&Leaf::Null))
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut list: A) -> Result<(), A::Error> {
        while list.next_element_seed(self.again())?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(below) = map.next_key_seed(Key(self.keys))? {
            match below {
                Some(keys) => map.next_value_seed(Walk { keys, found: &mut *self.found })?,
                None => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(())
    }
}

/// Looks a key up as it is read.
struct Key<'f>(&'f Keys);

impl<'de, 'f> DeserializeSeed<'de> for Key<'f> {
    type Value = Option<&'f Keys>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'f> Visitor<'_> for Key<'f> {
    type Value = Option<&'f Keys>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E>(self, key: &str) -> Result<Self::Value, E> {
        Ok(self.0.below(key))
    }
}
