//! Printing: stdout and stderr, colour, times, sizes.
//!
//! Results go to stdout, progress and errors to stderr. What guests and the platform say is made [`printable`] before a
//! terminal sees it, so that a hostile line cannot move the cursor or rename the window.

use std::borrow::Cow;
use std::io::{self, IsTerminal as _, Write as _};
use std::time::Duration;

use anyhow::Context as _;
use console::Style;
use jiff::Timestamp;
use serde::Serialize;

/// Prints a line on stdout. A reader that went away (`wharf logs | head`) ends the program in good order.
pub fn line(text: impl AsRef<str>) -> anyhow::Result<()> {
    let mut stdout = io::stdout().lock();
    match writeln!(stdout, "{}", text.as_ref()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => std::process::exit(0),
        other => other.context("could not write to stdout"),
    }
}

/// Prints a value as one line of JSON on stdout.
pub fn json(value: &impl Serialize) -> anyhow::Result<()> {
    line(serde_json::to_string(value).context("could not write the reply as JSON")?)
}

/// Prints a line on stderr; a closed stderr is no reason to fail.
pub fn note(text: impl AsRef<str>) {
    let _ = writeln!(io::stderr().lock(), "{}", text.as_ref());
}

pub fn stdout_is_terminal() -> bool {
    io::stdout().is_terminal()
}

pub fn stderr_is_terminal() -> bool {
    io::stderr().is_terminal()
}

/// Whether questions may be asked.
pub fn is_interactive() -> bool {
    io::stdin().is_terminal() && io::stderr().is_terminal()
}

/// Columns of the terminal on stdout. None: not a terminal, lines may be as long as they are.
pub fn width() -> Option<usize> {
    stdout_is_terminal()
        .then(|| console::Term::stdout().size_checked().map(|(_, columns)| usize::from(columns)))?
}

/// A style that shows only at a terminal and without `NO_COLOR`.
pub fn style() -> Style {
    let colour = stdout_is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    Style::new().force_styling(colour)
}

/// The colour of a state's or condition's word.
pub fn state_style(word: &str) -> Style {
    match word {
        "running" | "succeeded" | "healthy" | "yes" | "ok" => style().green(),
        "failed" | "lost" | "down" | "crash-looping" | "unhealthy" | "no" => style().red(),
        "degraded" | "deploying" | "warning" => style().yellow(),
        _ => style(),
    }
}

/// The word in its colour.
pub fn coloured(word: &str) -> String {
    state_style(word).apply_to(word).to_string()
}

/// The text with its control characters spelled out, but for tabs and line ends.
pub fn printable(text: &str) -> Cow<'_, str> {
    let is_bad = |c: char| c.is_control() && c != '\t' && c != '\n';
    if !text.contains(is_bad) {
        return Cow::Borrowed(text);
    }
    text.chars()
        .flat_map(|c| if is_bad(c) { c.escape_default().collect::<Vec<_>>() } else { vec![c] })
        .collect::<String>()
        .into()
}

/// How long ago, in the largest unit that fits: `12 s ago`, `3 min ago`.
pub fn ago(now: Timestamp, then: Timestamp) -> String {
    let secs = now.as_second() - then.as_second();
    match secs {
        ..=-60 => format!("in {}", amount(-secs)),
        -59..=0 => "just now".to_owned(),
        _ => format!("{} ago", amount(secs)),
    }
}

fn amount(secs: i64) -> String {
    match secs {
        ..=59 => format!("{secs} s"),
        60..=3_599 => format!("{} min", secs / 60),
        3_600..=172_799 => format!("{} h", secs / 3_600),
        _ => format!("{} d", secs / 86_400),
    }
}

/// A number of octets with three digits and a unit: `1.5 MiB`.
pub fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64;
    let mut unit = "";
    for next in UNITS {
        if value < 1024.0 {
            break;
        }
        value /= 1024.0;
        unit = next;
    }
    if value < 10.0 { format!("{value:.1} {unit}") } else { format!("{value:.0} {unit}") }
}

/// A measured time: `84 ms`, `2.3 s`.
pub fn elapsed(duration: Duration) -> String {
    if duration < Duration::from_secs(1) {
        format!("{} ms", duration.as_millis())
    } else {
        format!("{:.1} s", duration.as_secs_f64())
    }
}

/// The last eight digits of an id: its first ones are the time, which ids made together share.
pub fn short_id(id: impl std::fmt::Display) -> String {
    let text = id.to_string();
    text.get(text.len().saturating_sub(8)..).unwrap_or_default().to_owned()
}

/// `1 release`, `2 releases`.
pub fn count(number: u64, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

/// The first few of these, and how many more there are.
pub fn some_of(names: &[String]) -> String {
    const NAMED_MAX: usize = 5;
    let named = names[..names.len().min(NAMED_MAX)].join(", ");
    match names.len().saturating_sub(NAMED_MAX) {
        0 => named,
        more => format!("{named} and {more} more"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn times_are_relative_in_the_largest_unit() {
        let now = Timestamp::from_second(1_000_000_000).unwrap();
        for (secs, text) in [
            (0, "just now"),
            (-5, "just now"),
            (1, "1 s ago"),
            (59, "59 s ago"),
            (60, "1 min ago"),
            (3_599, "59 min ago"),
            (3_600, "1 h ago"),
            (47 * 3_600, "47 h ago"),
            (48 * 3_600, "2 d ago"),
            (-90 * 86_400, "in 90 d"),
        ] {
            let then = Timestamp::from_second(1_000_000_000 - secs).unwrap();
            assert_eq!(ago(now, then), text, "{secs}");
        }
    }

    #[test]
    fn sizes_have_few_digits() {
        assert_eq!(bytes(0), "0 B");
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(1536), "1.5 KiB");
        assert_eq!(bytes(128 << 20), "128 MiB");
        assert_eq!(bytes(u64::MAX), "16 EiB");
    }

    #[test]
    fn escape_codes_are_spelled_out() {
        assert_eq!(printable("plain\ttext"), "plain\ttext");
        assert_eq!(printable("a\x1b[2Jb"), "a\\u{1b}[2Jb");
    }

    #[test]
    fn of_many_names_five_are_told_and_the_others_counted() {
        let names = |count: u32| (0..count).map(|number| format!("n{number}")).collect::<Vec<_>>();
        assert_eq!(some_of(&names(0)), "");
        assert_eq!(some_of(&names(5)), "n0, n1, n2, n3, n4");
        assert_eq!(some_of(&names(8)), "n0, n1, n2, n3, n4 and 3 more");
    }

    #[test]
    fn ids_made_together_differ_when_shortened() {
        let (a, b) = (wharf_types::InstanceId::new(), wharf_types::InstanceId::new());
        assert_ne!(short_id(a), short_id(b));
        assert_eq!(short_id(a).len(), 8);
    }

    proptest! {
        #[test]
        fn nothing_printable_has_control_characters(text in any::<String>()) {
            prop_assert!(printable(&text).chars().all(|c| !c.is_control() || c == '\t' || c == '\n'));
        }
    }
}
