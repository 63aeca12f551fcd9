//! Parts of a whole, as users write them: `2` or `"25%"` of the slots, `0.1` or `"10%"` of the requests.

use std::fmt;
use std::str::FromStr;

use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{ObjectBuilder, OneOfBuilder, Schema, Type};
use utoipa::{PartialSchema, ToSchema};

/// A number of slots, or a share of all of them in percent, rounded up. Either way it is at least one slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Portion {
    Count(u32),
    Percent(u32),
}

impl Portion {
    /// How many of `slots` that is.
    pub fn of(self, slots: u32) -> u32 {
        let count = match self {
            Self::Count(count) => count,
            Self::Percent(percent) => {
                u32::try_from((u64::from(slots) * u64::from(percent)).div_ceil(100)).unwrap_or(u32::MAX)
            }
        };
        count.max(1)
    }
}

impl fmt::Display for Portion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Count(count) => write!(f, "{count}"),
            Self::Percent(percent) => write!(f, "{percent}%"),
        }
    }
}

/// A share or a multiple, exact to a millionth; written as a number such as `0.1`, or in percent: `"10%"`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ratio(u32);

impl Ratio {
    pub const ONE: Self = Self(1_000_000);

    pub const fn millionths(millionths: u32) -> Self {
        Self(millionths)
    }

    pub const fn percent(percent: u32) -> Self {
        Self(percent * 10_000)
    }

    pub const fn as_millionths(self) -> u32 {
        self.0
    }

    pub fn as_f64(self) -> f64 {
        f64::from(self.0) / 1e6
    }

    /// Rounded up, so that a share of something is never nothing of it.
    pub fn share_of(self, whole: u32) -> u32 {
        u32::try_from((u64::from(whole) * u64::from(self.0)).div_ceil(1_000_000)).unwrap_or(u32::MAX)
    }

    /// The most that is not above this share of the whole.
    pub fn most_of(self, whole: u32) -> u32 {
        u32::try_from(u64::from(whole) * u64::from(self.0) / 1_000_000).unwrap_or(u32::MAX)
    }

    fn from_f64(number: f64) -> Option<Self> {
        let millionths = (number * 1e6).round();
        (number.is_finite() && (0.0..=f64::from(u32::MAX)).contains(&millionths))
            .then_some(Self(millionths as u32))
    }
}

impl fmt::Display for Ratio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let percent = f64::from(self.0) / 1e4;
        write!(f, "{percent}%")
    }
}

/// Why a text is neither.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidAmount {
    #[error("`{0}` is not a part of the slots: write a number such as 2, or a share such as \"25%\"")]
    Portion(String),
    #[error("`{0}` is not a share: write a number such as 0.1, or percent such as \"10%\"")]
    Ratio(String),
}

fn shown(text: &str) -> String {
    text.chars().take(40).collect()
}

impl FromStr for Portion {
    type Err = InvalidAmount;
    fn from_str(text: &str) -> Result<Self, InvalidAmount> {
        let number =
            |text: &str| text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok()).flatten();
        let parsed = match text.strip_suffix('%') {
            Some(percent) => number(percent).map(Self::Percent),
            None => number(text).map(Self::Count),
        };
        parsed.ok_or_else(|| InvalidAmount::Portion(shown(text)))
    }
}

impl FromStr for Ratio {
    type Err = InvalidAmount;
    fn from_str(text: &str) -> Result<Self, InvalidAmount> {
        let (digits, scale) = match text.strip_suffix('%') {
            Some(percent) => (percent, 0.01),
            None => (text, 1.0),
        };
        let is_number = digits.bytes().all(|b| b.is_ascii_digit() || b == b'.');
        let number: Option<f64> = digits.parse().ok().filter(|_| is_number);
        number
            .and_then(|number| Self::from_f64(number * scale))
            .ok_or_else(|| InvalidAmount::Ratio(shown(text)))
    }
}

impl Serialize for Portion {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Count(count) => serializer.serialize_u32(*count),
            Self::Percent(_) => serializer.collect_str(self),
        }
    }
}

impl Serialize for Ratio {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(self.as_f64())
    }
}

/// A number or a text, as the readers below take it.
fn number_or_text(about: &str, number: ObjectBuilder, text: &str) -> RefOr<Schema> {
    let text = ObjectBuilder::new().schema_type(Type::String).pattern(Some(text));
    OneOfBuilder::new().description(Some(about)).item(number).item(text).into()
}

impl PartialSchema for Portion {
    fn schema() -> RefOr<Schema> {
        let number = ObjectBuilder::new()
            .schema_type(Type::Integer)
            .minimum(Some(0))
            .maximum(Some(u64::from(u32::MAX)));
        let about = "A number of slots, or a share of all of them in percent, rounded up.";
        number_or_text(about, number, "^[0-9]{1,9}%?$")
    }
}

impl ToSchema for Portion {}

impl PartialSchema for Ratio {
    fn schema() -> RefOr<Schema> {
        let largest = Self(u32::MAX).as_f64();
        let number = ObjectBuilder::new().schema_type(Type::Number).minimum(Some(0)).maximum(Some(largest));
        let about = "A share or a multiple, exact to a millionth; written as a number such as `0.1`, or in percent: `\"10%\"`.";
        number_or_text(about, number, "^[0-9]{1,3}(\\.[0-9]{1,9})?%?$")
    }
}

impl ToSchema for Ratio {}

struct PortionVisitor;

impl Visitor<'_> for PortionVisitor {
    type Value = Portion;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number of slots such as 2, or a share of them such as \"25%\"")
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<Portion, E> {
        let count = u32::try_from(number);
        count.map(Portion::Count).map_err(|_| E::invalid_value(de::Unexpected::Signed(number), &self))
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<Portion, E> {
        let count = u32::try_from(number);
        count.map(Portion::Count).map_err(|_| E::invalid_value(de::Unexpected::Unsigned(number), &self))
    }

    // `2.0`, which is a whole number in JSON.
    fn visit_f64<E: de::Error>(self, number: f64) -> Result<Portion, E> {
        let is_count = number.fract() == 0.0 && (0.0..=f64::from(u32::MAX)).contains(&number);
        is_count
            .then_some(Portion::Count(number as u32))
            .ok_or_else(|| E::invalid_value(de::Unexpected::Float(number), &self))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Portion, E> {
        text.parse().map_err(E::custom)
    }
}

impl<'de> Deserialize<'de> for Portion {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(PortionVisitor)
    }
}

struct RatioVisitor;

impl Visitor<'_> for RatioVisitor {
    type Value = Ratio;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a share such as 0.1 or \"10%\"")
    }

    fn visit_f64<E: de::Error>(self, number: f64) -> Result<Ratio, E> {
        Ratio::from_f64(number).ok_or_else(|| E::invalid_value(de::Unexpected::Float(number), &self))
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<Ratio, E> {
        self.visit_f64(number as f64)
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<Ratio, E> {
        self.visit_f64(number as f64)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Ratio, E> {
        text.parse().map_err(E::custom)
    }
}

impl<'de> Deserialize<'de> for Ratio {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(RatioVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_portion_is_rounded_up_and_never_nothing() {
        for (text, slots, moved) in
            [("25%", 10, 3), ("25%", 1, 1), ("100%", 7, 7), ("1%", 0, 1), ("2", 10, 2), ("0", 10, 1)]
        {
            assert_eq!(text.parse::<Portion>().unwrap().of(slots), moved, "{text} of {slots}");
        }
        assert_eq!(serde_json::from_str::<Portion>("2.0").unwrap(), Portion::Count(2));
        assert!(serde_json::from_str::<Portion>("2.5").is_err());
        for bad in ["", "%", "-1", "2.5%", "x", "+3", "99999999999"] {
            assert!(bad.parse::<Portion>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_share_is_a_number_or_percent() {
        for (json, millionths) in
            [("0.1", 100_000), ("\"10%\"", 100_000), ("1", 1_000_000), ("\"0.05%\"", 500)]
        {
            assert_eq!(serde_json::from_str::<Ratio>(json).unwrap(), Ratio::millionths(millionths), "{json}");
        }
        // The schema has the largest that is read.
        assert_eq!(serde_json::from_str::<Ratio>("4294.967295").unwrap(), Ratio::millionths(u32::MAX));
        for bad in ["-0.1", "\"ten\"", "\"-1%\"", "\"1e3\"", "\"NaN\"", "1e12", "4294.967296"] {
            assert!(serde_json::from_str::<Ratio>(bad).is_err(), "{bad}");
        }
        assert_eq!(Ratio::percent(10).to_string(), "10%");
        assert_eq!((Ratio::percent(10).share_of(1), Ratio::percent(10).most_of(19)), (1, 1));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(millionths in 0..=10_000_000_u32, count in any::<u32>(), percent in 0..=100_u32) {
            let ratio = Ratio::millionths(millionths);
            prop_assert_eq!(serde_json::from_str::<Ratio>(&serde_json::to_string(&ratio).unwrap()).unwrap(), ratio);
            for portion in [Portion::Count(count), Portion::Percent(percent)] {
                let written = serde_json::to_string(&portion).unwrap();
                prop_assert_eq!(serde_json::from_str::<Portion>(&written).unwrap(), portion);
            }
        }
    }
}
