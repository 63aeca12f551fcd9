//! Amounts as compose files write them: `64m`, `1m30s`, `0.5`, `on`.
//!
//! Each is read into one canonical text, which the types of Wharf read as well.

use wharf_types::quantity::ByteSize;

/// `1h30m`, `2.5s`, `100ms`, as Go writes durations: written without fractions, `30m` as `30m` and `90s` as `1m30s`.
pub(crate) fn duration(text: &str) -> Result<String, String> {
    let nanos = nanos(text).ok_or_else(|| {
        "is not a duration: write numbers with units, such as `30s`, `1m30s` or `500ms`".to_owned()
    })?;
    Ok(written(nanos))
}

fn nanos(text: &str) -> Option<u64> {
    if text == "0" {
        return Some(0);
    }
    let mut total = 0_f64;
    let mut rest = text.trim();
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, after) = rest.split_at(digits);
        let unit_end = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (unit, after) = after.split_at(unit_end);
        let scale = match unit {
            "ns" => 1.0,
            "us" | "µs" | "μs" => 1e3,
            "ms" => 1e6,
            "s" => 1e9,
            "m" => 60e9,
            "h" => 3600e9,
            "d" => 24.0 * 3600e9,
            "w" => 7.0 * 24.0 * 3600e9,
            _ => return None,
        };
        total += number.parse::<f64>().ok()? * scale;
        rest = after;
    }
    // As far as Go's durations go, 292 years.
    (total.is_finite() && total < 9.2e18).then_some(total.round() as u64)
}

fn written(nanos: u64) -> String {
    if nanos == 0 {
        return "0s".to_owned();
    }
    let mut text = String::new();
    let mut rest = nanos;
    for (unit, scale) in [
        ("h", 3_600_000_000_000),
        ("m", 60_000_000_000),
        ("s", 1_000_000_000),
        ("ms", 1_000_000),
        ("us", 1000),
        ("ns", 1),
    ] {
        if rest >= scale {
            text.push_str(&format!("{}{unit}", rest / scale));
            rest %= scale;
        }
    }
    text
}

/// `64m`, `1gb`, `2GiB`, `1024`: units are powers of 1024, and without one it is bytes. Written with the largest unit that loses nothing.
pub(crate) fn size(text: &str) -> Result<String, String> {
    let invalid = || "is not a size: write a number and a unit, such as `64m`, `1g` or `512k`".to_owned();
    let trimmed = text.trim();
    let digits = trimmed.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(trimmed.len());
    let (number, unit) = trimmed.split_at(digits);
    let unit = unit.trim_start().to_ascii_lowercase();
    let unit = unit.strip_suffix('b').map_or(unit.as_str(), |unit| unit.strip_suffix('i').unwrap_or(unit));
    let shift = match unit {
        "" => 0,
        "k" | "ki" => 10,
        "m" | "mi" => 20,
        "g" | "gi" => 30,
        "t" | "ti" => 40,
        "p" | "pi" => 50,
        _ => return Err(invalid()),
    };
    let bytes = match number.parse::<u64>() {
        Ok(number) => number.checked_mul(1 << shift),
        Err(_) => {
            let bytes = number.parse::<f64>().map_err(|_| invalid())? * f64::from(2_u32).powi(shift);
            (bytes.is_finite() && bytes < 9e18).then_some(bytes as u64)
        }
    };
    bytes
        .map(|bytes| ByteSize::bytes(bytes).to_string())
        .ok_or_else(|| "is more than any machine has".to_owned())
}

/// What YAML 1.1 took for one, too: a variable may have put any of these in.
pub(crate) fn boolean(text: &str) -> Result<&'static str, String> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "yes" | "on" | "y" | "1" => Ok("true"),
        "false" | "no" | "off" | "n" | "0" => Ok("false"),
        _ => Err("is neither `true` nor `false`".to_owned()),
    }
}

pub(crate) fn whole(text: &str) -> Result<String, String> {
    let invalid = || "is not a whole number".to_owned();
    let trimmed = text.trim();
    let digits = trimmed.strip_prefix(['-', '+']).unwrap_or(trimmed);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(invalid());
    }
    trimmed.parse::<i64>().map(|number| number.to_string()).map_err(|_| invalid())
}

/// Exactly as written, but for a sign and zeros that say nothing.
pub(crate) fn number(text: &str) -> Result<String, String> {
    let trimmed = text.trim();
    let looks =
        trimmed.bytes().all(|byte| byte.is_ascii_digit() || matches!(byte, b'.' | b'-' | b'+' | b'e' | b'E'));
    let number =
        trimmed.parse::<f64>().ok().filter(|number| looks && number.is_finite() && number.abs() < 1e15);
    number.map(|number| number.to_string()).ok_or_else(|| "is not a number".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use wharf_types::quantity::Span;

    #[test]
    fn durations_are_written_in_one_way_that_wharf_reads() {
        for (text, expected) in [
            ("30s", "30s"),
            ("90s", "1m30s"),
            ("1m30s", "1m30s"),
            ("2.5s", "2s500ms"),
            ("100ms", "100ms"),
            ("1h5m", "1h5m"),
            ("1d", "24h"),
            ("0", "0s"),
            ("0s", "0s"),
            ("1.5us", "1us500ns"),
        ] {
            let canonical = duration(text).unwrap();
            assert_eq!(canonical, expected, "{text}");
            assert_eq!(duration(&canonical).unwrap(), expected);
            let millis = canonical.parse::<Span>().unwrap().as_duration().as_secs_f64() * 1000.0;
            assert!((millis - nanos(text).unwrap() as f64 / 1e6).abs() < 1e-6, "{text}");
        }
        for bad in ["", "30", "s", "1x", "1.2.3s", "-5s", "99999999999999h", "1m 30s", "NaNs"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn sizes_are_powers_of_1024_as_the_engine_takes_them() {
        for (text, bytes) in [
            ("64m", 64 << 20),
            ("1gb", 1 << 30),
            ("1.5k", 1536),
            ("100", 100),
            ("2GiB", 2 << 30),
            ("0", 0),
            ("7B", 7),
            ("1 mb", 1 << 20),
        ] {
            let canonical = size(text).unwrap();
            assert_eq!(canonical.parse(), Ok(ByteSize::bytes(bytes)), "{text}");
            assert_eq!(size(&canonical).unwrap(), canonical);
        }
        for bad in ["", "m", "64x", "-1", "1e9", "99999999999p", "1.2.3k"] {
            assert!(size(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn words_for_yes_and_no_are_known() {
        assert_eq!((boolean("True"), boolean("on"), boolean("no")), (Ok("true"), Ok("true"), Ok("false")));
        assert!(boolean("maybe").is_err() && boolean("").is_err());
        assert_eq!((whole("+7").unwrap(), whole("-1").unwrap()), ("7".to_owned(), "-1".to_owned()));
        assert!(whole("1.5").is_err() && whole("").is_err() && whole("x").is_err());
        assert_eq!(number("0.50").unwrap(), "0.5");
        assert!(number("inf").is_err() && number("1e400").is_err());
    }
}
