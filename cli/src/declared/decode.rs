//! From the tree to the types of settings, with errors that say where in the tree they are.

use std::fmt;

use serde::de::value::{StrDeserializer, StringDeserializer};
use serde::de::{self, DeserializeSeed, IntoDeserializer as _, Unexpected, Visitor};
use serde::forward_to_deserialize_any;

use super::node::{Entry, Node, Place, Value};
use wharf_types::suggest::nearest;

/// What could not be decoded, and where.
#[derive(Debug)]
pub struct Error {
    pub message: String,
    pub place: Option<Place>,
    /// From the value outwards: which entry of a table, which item of a list.
    pub steps: Vec<usize>,
    /// It is about the key of the last step, not about its value.
    pub is_key: bool,
    pub missing: Option<&'static str>,
}

impl Error {
    fn new(message: String) -> Self {
        Self { message, place: None, steps: Vec::new(), is_key: false, missing: None }
    }

    fn at(mut self, place: Place) -> Self {
        self.place.get_or_insert(place);
        self
    }

    fn below(mut self, step: usize) -> Self {
        self.steps.push(step);
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

impl de::Error for Error {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self::new(message.to_string())
    }

    fn invalid_type(found: Unexpected<'_>, wanted: &dyn de::Expected) -> Self {
        let wanted = wanted.to_string();
        let mut message = format!("{} stands where {} is needed", describe(found), needed(&wanted));
        match found {
            Unexpected::Unsigned(_) | Unexpected::Signed(_) | Unexpected::Float(_) | Unexpected::Bool(_)
                if wanted.contains("string") =>
            {
                message.push_str("; write it in quotes");
            }
            Unexpected::Unit => message.push_str("; give a value, or leave the key out"),
            _ => {}
        }
        Self::new(message)
    }

    fn invalid_value(found: Unexpected<'_>, wanted: &dyn de::Expected) -> Self {
        Self::new(format!("{} stands where {} is needed", describe(found), needed(&wanted.to_string())))
    }

    fn unknown_field(field: &str, expected: &'static [&'static str]) -> Self {
        let shown: String = field.chars().take(60).collect();
        let message = match nearest(field, expected.iter().copied()) {
            Some(meant) => format!("there is no key `{shown}` here; did you mean `{meant}`?"),
            None if expected.is_empty() => format!("there is no key `{shown}` here; it takes none"),
            None => format!("there is no key `{shown}` here; there are {}", list(expected)),
        };
        Self { is_key: true, ..Self::new(message) }
    }

    fn unknown_variant(variant: &str, expected: &'static [&'static str]) -> Self {
        let shown: String = variant.chars().take(60).collect();
        let message = match nearest(variant, expected.iter().copied()) {
            Some(meant) => format!("`{shown}` is not known; did you mean `{meant}`?"),
            None => format!("`{shown}` is not known; write one of {}", list(expected)),
        };
        Self::new(message)
    }

    fn missing_field(field: &'static str) -> Self {
        Self { missing: Some(field), ..Self::new(format!("`{field}` is missing")) }
    }
}

fn list(words: &[&str]) -> String {
    words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ")
}

fn describe(found: Unexpected<'_>) -> String {
    match found {
        Unexpected::Unit => "nothing".to_owned(),
        Unexpected::Bool(is) => format!("`{is}`"),
        Unexpected::Unsigned(number) => format!("the number {number}"),
        Unexpected::Signed(number) => format!("the number {number}"),
        Unexpected::Float(number) => format!("the number {number}"),
        Unexpected::Str(text) => format!("the text `{}`", text.chars().take(60).collect::<String>()),
        Unexpected::Seq => "a list".to_owned(),
        Unexpected::Map => "a table".to_owned(),
        other => other.to_string(),
    }
}

/// What serde calls a type, for people.
fn needed(wanted: &str) -> &str {
    match wanted {
        "u8" | "u16" | "u32" | "u64" | "usize" => "a whole number from 0 on",
        "i8" | "i16" | "i32" | "i64" => "a whole number",
        "a boolean" => "`true` or `false`",
        "a sequence" => "a list",
        "a map" => "a table",
        "a string" | "string" => "a text",
        wanted if wanted.starts_with("struct ") => "a table of settings",
        wanted if wanted.starts_with("enum ") || wanted.contains("variant") => "a word",
        wanted => wanted,
    }
}

impl Value {
    fn unexpected(&self) -> Unexpected<'_> {
        match self {
            Self::Null => Unexpected::Unit,
            Self::Bool(is) => Unexpected::Bool(*is),
            Self::Int(number) => Unexpected::Signed(*number),
            Self::Large(number) => Unexpected::Unsigned(*number),
            Self::Float(number) => Unexpected::Float(*number),
            Self::Text(text) => Unexpected::Str(text),
            Self::List(_) => Unexpected::Seq,
            Self::Table(_) => Unexpected::Map,
        }
    }
}

impl<'de> de::Deserializer<'de> for &'de Node {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let visited = match &self.value {
            Value::Null => visitor.visit_unit(),
            Value::Bool(is) => visitor.visit_bool(*is),
            Value::Int(number) => match u64::try_from(*number) {
                Ok(number) => visitor.visit_u64(number),
                Err(_) => visitor.visit_i64(*number),
            },
            Value::Large(number) => visitor.visit_u64(*number),
            Value::Float(number) => visitor.visit_f64(*number),
            Value::Text(text) => visitor.visit_borrowed_str(text),
            Value::List(items) => visitor.visit_seq(Items(items.iter().enumerate())),
            Value::Table(entries) => {
                visitor.visit_map(Entries { rest: entries.iter().enumerate(), value: None })
            }
        };
        visited.map_err(|error| error.at(self.place))
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.value {
            Value::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    /// A list is no table, although serde would take one for the fields in their order.
    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        match &self.value {
            Value::Table(_) => self.deserialize_any(visitor),
            other => {
                Err(<Error as de::Error>::invalid_type(other.unexpected(), &"a table of settings")
                    .at(self.place))
            }
        }
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        let visited = match &self.value {
            Value::Text(text) => {
                let word: StrDeserializer<'_, Error> = text.as_str().into_deserializer();
                visitor.visit_enum(word)
            }
            other => Err(de::Error::invalid_type(other.unexpected(), &"a word")),
        };
        visited.map_err(|error| error.at(self.place))
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct seq tuple tuple_struct
        map identifier ignored_any
    }
}

/// The key of an entry: a text, which may stand for a number where one is needed.
struct Key(String);

impl Key {
    fn text(self) -> StringDeserializer<Error> {
        self.0.into_deserializer()
    }
}

impl<'de> de::Deserializer<'de> for Key {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.text().deserialize_any(visitor)
    }

    fn deserialize_u16<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.0.parse() {
            Ok(number) => visitor.visit_u16(number),
            Err(_) => self.deserialize_any(visitor),
        }
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.text().deserialize_enum(name, variants, visitor)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct newtype_struct seq
        tuple tuple_struct map struct identifier ignored_any
    }
}

struct Items<'de>(std::iter::Enumerate<std::slice::Iter<'de, Node>>);

impl<'de> de::SeqAccess<'de> for Items<'de> {
    type Error = Error;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Error> {
        let Some((at, item)) = self.0.next() else { return Ok(None) };
        seed.deserialize(item).map(Some).map_err(|error| error.at(item.place).below(at))
    }
}

struct Entries<'de> {
    rest: std::iter::Enumerate<std::slice::Iter<'de, Entry>>,
    value: Option<(usize, &'de Entry)>,
}

impl<'de> de::MapAccess<'de> for Entries<'de> {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Error> {
        let Some((at, entry)) = self.rest.next() else { return Ok(None) };
        self.value = Some((at, entry));
        let seen = seed.deserialize(Key(entry.key.clone()));
        seen.map(Some).map_err(|error| Error { is_key: true, ..error.at(entry.place).below(at) })
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Error> {
        let Some((at, entry)) = self.value.take() else {
            return Err(de::Error::custom("a value was asked for before its key"));
        };
        // A type that reads a text and then refuses it knows no place.
        seed.deserialize(&entry.node).map_err(|error| error.at(entry.node.place).below(at))
    }
}
