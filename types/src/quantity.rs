//! Amounts that users write with a unit: `128MiB`, `30s`.
//!
//! A bare number is refused where it could have several: nobody should have to guess its unit.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{ObjectBuilder, OneOfBuilder, Schema, Type};
use utoipa::{PartialSchema, ToSchema};

/// A number of octets, written with a unit such as `128MiB` (2^20) or `10MB` (10^6).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(try_from = "String", into = "String")]
#[schema(
    value_type = String,
    example = "128MiB",
    pattern = "^(0|[0-9]{1,18}(\\.[0-9]{1,9})? ?([bB]|[kKmMgGtTpPeE][iI]?[bB]?))$"
)]
pub struct ByteSize(u64);

/// A length of time, written with units such as `30s`, `500ms` or `1m 30s`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(try_from = "String", into = "String")]
#[schema(
    value_type = String,
    example = "30s",
    pattern = "^(0|[0-9]{1,9}(ns|us|ms|s|sec|m|min|h|d|w|days?|hours?|weeks?)( ?[0-9]{1,9}(ns|us|ms|s|sec|m|min|h|d|w|days?|hours?|weeks?))*)$"
)]
pub struct Span(Duration);

/// Processors or parts of one, in thousandths; written as a number such as `0.5`, or `"2"`, `"0.5"` or `"500m"`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(into = "String")]
pub struct CpuShare(u32);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidQuantity {
    #[error(
        "`{0}` is not a share of processors: write a number such as `0.5`, or thousandths in quotes, such as `\"500m\"`"
    )]
    Cpu(String),
    #[error("`{0}` is not a size: write a number and a unit, such as `128MiB`")]
    Size(String),
    #[error("`{0}` is not a duration: write a number and a unit, such as `30s` or `500ms`")]
    Duration(String),
}

impl ByteSize {
    pub const fn bytes(bytes: u64) -> Self {
        Self(bytes)
    }

    pub const fn mib(mib: u64) -> Self {
        Self(mib << 20)
    }

    pub const fn as_bytes(self) -> u64 {
        self.0
    }
}

impl CpuShare {
    /// As many as the text has digits for.
    const NUMBER_MAX_MILLIS: u32 = 999_999_999;

    pub const fn millis(millis: u32) -> Self {
        Self(millis)
    }

    pub const fn as_millis(self) -> u32 {
        self.0
    }

    /// To the nearest thousandth.
    fn from_f64(number: f64) -> Option<Self> {
        let millis = (number * 1e3).round();
        let is_share = number >= 0.0 && millis <= f64::from(Self::NUMBER_MAX_MILLIS);
        is_share.then_some(Self(millis as u32))
    }
}

impl FromStr for CpuShare {
    type Err = InvalidQuantity;
    fn from_str(text: &str) -> Result<Self, InvalidQuantity> {
        let millis = || {
            if let Some(millis) = text.strip_suffix('m') {
                return digits(millis)?.parse().ok();
            }
            let (whole, part) = text.split_once('.').unwrap_or((text, "0"));
            let part = digits(part).filter(|part| part.len() <= 3)?;
            let whole: u32 = digits(whole)?.parse().ok()?;
            whole.checked_mul(1000)?.checked_add(format!("{part:0<3}").parse().ok()?)
        };
        millis().map(Self).ok_or_else(|| InvalidQuantity::Cpu(text.chars().take(40).collect()))
    }
}

/// The text, if it is nothing but digits: `parse` alone would take a sign as well.
fn digits(text: &str) -> Option<&str> {
    (!text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())).then_some(text)
}

impl fmt::Display for CpuShare {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_multiple_of(1000) { write!(f, "{}", self.0 / 1000) } else { write!(f, "{}m", self.0) }
    }
}

impl From<CpuShare> for String {
    fn from(share: CpuShare) -> Self {
        share.to_string()
    }
}

impl PartialSchema for CpuShare {
    fn schema() -> RefOr<Schema> {
        let largest = f64::from(Self::NUMBER_MAX_MILLIS) / 1e3;
        let number = ObjectBuilder::new().schema_type(Type::Number).minimum(Some(0)).maximum(Some(largest));
        let pattern = "^([0-9]{1,6}(\\.[0-9]{1,3})?|[0-9]{1,9}m)$";
        let text = ObjectBuilder::new().schema_type(Type::String).pattern(Some(pattern));
        let about = "Processors or parts of one, in thousandths; written as a number such as `0.5`, or `\"2\"`, `\"0.5\"` or `\"500m\"`.";
        OneOfBuilder::new().description(Some(about)).item(number).item(text).into()
    }
}

impl ToSchema for CpuShare {}

struct CpuVisitor;

impl Visitor<'_> for CpuVisitor {
    type Value = CpuShare;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a share of processors such as 0.5 or \"500m\"")
    }

    fn visit_f64<E: de::Error>(self, number: f64) -> Result<CpuShare, E> {
        CpuShare::from_f64(number).ok_or_else(|| E::invalid_value(de::Unexpected::Float(number), &self))
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<CpuShare, E> {
        self.visit_f64(number as f64)
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<CpuShare, E> {
        self.visit_f64(number as f64)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<CpuShare, E> {
        text.parse().map_err(E::custom)
    }
}

impl<'de> Deserialize<'de> for CpuShare {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(CpuVisitor)
    }
}

impl Span {
    pub const fn from_secs(secs: u64) -> Self {
        Self(Duration::from_secs(secs))
    }

    pub const fn from_millis(millis: u64) -> Self {
        Self(Duration::from_millis(millis))
    }

    pub const fn as_duration(self) -> Duration {
        self.0
    }
}

impl From<Duration> for Span {
    fn from(duration: Duration) -> Self {
        Self(duration)
    }
}

impl FromStr for ByteSize {
    type Err = InvalidQuantity;
    fn from_str(text: &str) -> Result<Self, InvalidQuantity> {
        let invalid = || InvalidQuantity::Size(text.chars().take(40).collect());
        if text.trim().bytes().all(|b| b.is_ascii_digit() || b == b'.') && text.trim() != "0" {
            return Err(invalid());
        }
        text.trim().parse::<bytesize::ByteSize>().map(|size| Self(size.0)).map_err(|_| invalid())
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The largest unit that loses nothing, so that what is written is what is read back.
        for (unit, size) in [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)] {
            if self.0 >= size && self.0.is_multiple_of(size) {
                return write!(f, "{}{unit}", self.0 / size);
            }
        }
        write!(f, "{}B", self.0)
    }
}

impl FromStr for Span {
    type Err = InvalidQuantity;
    fn from_str(text: &str) -> Result<Self, InvalidQuantity> {
        humantime::parse_duration(text.trim())
            .map(Self)
            .map_err(|_| InvalidQuantity::Duration(text.chars().take(40).collect()))
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        humantime::format_duration(self.0).fmt(f)
    }
}

macro_rules! text {
    ($($name:ident),+) => {$(
        impl TryFrom<String> for $name {
            type Error = InvalidQuantity;
            fn try_from(text: String) -> Result<Self, InvalidQuantity> {
                text.parse()
            }
        }
        impl From<$name> for String {
            fn from(value: $name) -> String {
                value.to_string()
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
    )+};
}
text!(ByteSize, Span);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sizes_need_a_unit() {
        assert_eq!("128MiB".parse::<ByteSize>().unwrap(), ByteSize::mib(128));
        assert_eq!("10MB".parse::<ByteSize>().unwrap(), ByteSize::bytes(10_000_000));
        assert!("128".parse::<ByteSize>().is_err());
        assert!("much".parse::<ByteSize>().is_err());
        assert!("30".parse::<Span>().is_err());
    }

    #[test]
    fn shares_of_processors_are_whole_parts_or_thousandths() {
        for (text, millis) in [("2", 2000), ("0.5", 500), ("1.25", 1250), ("500m", 500), ("0", 0)] {
            assert_eq!(text.parse(), Ok(CpuShare::millis(millis)), "{text}");
        }
        assert_eq!(CpuShare::millis(1500).to_string(), "1500m");
        assert_eq!(CpuShare::millis(3000).to_string(), "3");
        for bad in ["", "m", "-1", "+1", ".5", "1.", "1.2345", "half", "99999999", "1e3", "1.+5"] {
            assert!(bad.parse::<CpuShare>().is_err(), "{bad}");
        }
    }

    #[test]
    fn processors_may_be_a_bare_number() {
        for (json, millis) in [("0.5", 500), ("2", 2000), ("1.2346", 1235), ("\"0.5\"", 500), ("0", 0)] {
            assert_eq!(serde_json::from_str::<CpuShare>(json).unwrap(), CpuShare::millis(millis), "{json}");
        }
        // The schema has the largest that is read.
        let largest = CpuShare::millis(CpuShare::NUMBER_MAX_MILLIS);
        assert_eq!(serde_json::from_str::<CpuShare>("999999.999").unwrap(), largest);
        for bad in ["-1", "-0.5", "1000000", "1e300", "true", "\"half\"", "null"] {
            assert!(serde_json::from_str::<CpuShare>(bad).is_err(), "{bad}");
        }
        assert_eq!(
            serde_json::to_string(&CpuShare::millis(500)).unwrap(),
            "\"500m\"",
            "as older programs read it"
        );
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(bytes in any::<u64>(), millis in 0..u64::from(u32::MAX)) {
            prop_assert_eq!(ByteSize::bytes(bytes).to_string().parse::<ByteSize>().unwrap(), ByteSize::bytes(bytes));
            prop_assert_eq!(Span::from_millis(millis).to_string().parse::<Span>().unwrap(), Span::from_millis(millis));
        }
    }
}
