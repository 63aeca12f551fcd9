//! Amounts as manifests write them: `250m`, `64Mi`, `1.5`, `2e3`.

use wharf_types::quantity::{ByteSize, CpuShare, Span};

use crate::at::At;
use crate::finding::Sink;

const NANO: u128 = 1_000_000_000;

/// In thousandths, rounded up as a cluster rounds.
pub(crate) fn thousandths(text: &str) -> Option<u64> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.' && c != '+').unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    let number = number.strip_prefix('+').unwrap_or(number);
    let (whole, part) = number.split_once('.').unwrap_or((number, ""));
    let is_number = (!whole.is_empty() || !part.is_empty())
        && whole.len() <= 20
        && part.len() <= 9
        && (whole.bytes().chain(part.bytes())).all(|byte| byte.is_ascii_digit());
    if !is_number {
        return None;
    }
    let digits = |digits: &str| if digits.is_empty() { Some(0) } else { digits.parse::<u128>().ok() };
    let nanos = digits(whole)?.checked_mul(NANO)?.checked_add(digits(&format!("{part:0<9}"))?)?;
    let (times, divided) = scale(suffix)?;
    let thousandths = nanos.checked_mul(times)?.div_ceil(divided * (NANO / 1000));
    u64::try_from(thousandths).ok()
}

/// What a suffix multiplies and divides by.
fn scale(suffix: &str) -> Option<(u128, u128)> {
    let binary = |power: u32| Some((1_u128 << (10 * power), 1));
    let decimal = |power: u32| Some((10_u128.pow(power), 1));
    match suffix {
        "n" => Some((1, NANO)),
        "u" => Some((1, 1_000_000)),
        "m" => Some((1, 1000)),
        "" => Some((1, 1)),
        "k" => decimal(3),
        "M" => decimal(6),
        "G" => decimal(9),
        "T" => decimal(12),
        "P" => decimal(15),
        "E" => decimal(18),
        "Ki" => binary(1),
        "Mi" => binary(2),
        "Gi" => binary(3),
        "Ti" => binary(4),
        "Pi" => binary(5),
        "Ei" => binary(6),
        _ => {
            let power: i32 =
                suffix.strip_prefix(['e', 'E'])?.parse().ok().filter(|power| (-9..=18).contains(power))?;
            let by = 10_u128.pow(power.unsigned_abs());
            Some(if power < 0 { (1, by) } else { (by, 1) })
        }
    }
}

pub(crate) fn bytes(at: &At<'_>, sink: &mut Sink) -> Option<ByteSize> {
    let text = at.word();
    let size = thousandths(text).map(|thousandths| ByteSize::bytes(thousandths.div_ceil(1000)));
    if size.is_none() {
        sink.refuse(at, "it is not a size; write a number and a unit, such as `64Mi`");
    }
    size
}

pub(crate) fn processors(at: &At<'_>, sink: &mut Sink) -> Option<CpuShare> {
    let millis = thousandths(at.word()).and_then(|millis| u32::try_from(millis).ok());
    if millis.is_none() {
        sink.refuse(at, "it is not a share of processors; write `500m` or `0.5`");
    }
    millis.map(CpuShare::millis)
}

/// A number of seconds from `least` on.
pub(crate) fn seconds(at: &At<'_>, path: &str, least: u64, sink: &mut Sink) -> Option<Span> {
    let number = at.int(path)?;
    match u64::try_from(number).ok().filter(|seconds| (least..=u64::from(u32::MAX)).contains(seconds)) {
        Some(seconds) => Some(Span::from_secs(seconds)),
        None => {
            sink.refuse(&at.near(path), format!("{number} is not a number of seconds from {least} on"));
            None
        }
    }
}

/// A number from `least` on.
pub(crate) fn count(at: &At<'_>, path: &str, least: u32, sink: &mut Sink) -> Option<u32> {
    let number = at.int(path)?;
    let count = u32::try_from(number).ok().filter(|count| *count >= least);
    if count.is_none() {
        sink.refuse(&at.near(path), format!("{number} is not a number from {least} on"));
    }
    count
}

/// A port.
pub(crate) fn port(at: &At<'_>, path: &str, sink: &mut Sink) -> Option<u16> {
    let number = at.int(path)?;
    let port = u16::try_from(number).ok().filter(|port| *port > 0);
    if port.is_none() {
        sink.refuse(&at.near(path), format!("{number} is not a port: 1 to 65535"));
    }
    port
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_what_a_cluster_takes_them_for() {
        for (text, expected) in [
            ("1", 1000),
            ("250m", 250),
            ("0.1", 100),
            (".5", 500),
            ("1.", 1000),
            ("+2", 2000),
            ("64Mi", (64 << 20) * 1000),
            ("1.5Gi", (3 << 29) * 1000),
            ("128M", 128_000_000_000),
            ("1e3", 1_000_000),
            ("2E2", 200_000),
            ("5e-1", 500),
            ("1n", 1),
            ("100u", 1),
            ("0", 0),
        ] {
            assert_eq!(thousandths(text), Some(expected), "{text}");
        }
        for bad in ["", "m", "-1", "1 Mi", "1MiB", "1e99", "1.2.3", "0x10", "99999999999999999999", "1E"] {
            assert_eq!(thousandths(bad), None, "{bad}");
        }
    }
}
