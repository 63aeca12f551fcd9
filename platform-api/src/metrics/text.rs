//! The text format of Prometheus, version 0.0.4.

use std::fmt::{self, Write as _};

/// The format's media type.
pub(crate) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Only grows, until it starts over.
    Counter,
    Gauge,
}

/// A number as it is counted. The format wants seconds where we count milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Value {
    Whole(u64),
    Millis(u64),
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Whole(number) => write!(f, "{number}"),
            Self::Millis(millis) => write!(f, "{}.{:03}", millis / 1000, millis % 1000),
        }
    }
}

/// A document of metrics.
#[derive(Debug, Default)]
pub(super) struct Exposition {
    text: String,
}

impl Exposition {
    /// Begins a metric, whose samples have to follow before the next one begins.
    pub(super) fn metric(&mut self, kind: Kind, name: &'static str, help: &'static str) -> Metric<'_> {
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
        };
        self.push(format_args!("# HELP {name} "));
        // In a help text, a quotation mark is one like any other.
        help.chars().for_each(|char| self.push_escaped(char, false));
        self.push(format_args!("\n# TYPE {name} {kind}\n"));
        Metric { exposition: self, name }
    }

    pub(super) fn into_text(self) -> String {
        self.text
    }

    fn push(&mut self, arguments: fmt::Arguments<'_>) {
        // Writing to a string cannot fail.
        let _ = self.text.write_fmt(arguments);
    }

    fn push_escaped(&mut self, char: char, quotes: bool) {
        match char {
            '\\' => self.text.push_str(r"\\"),
            '\n' => self.text.push_str(r"\n"),
            '"' if quotes => self.text.push_str("\\\""),
            char => self.text.push(char),
        }
    }
}

/// A metric that is being written.
pub(super) struct Metric<'a> {
    exposition: &'a mut Exposition,
    name: &'static str,
}

impl Metric<'_> {
    pub(super) fn sample(&mut self, labels: &[(&str, &str)], value: Value) {
        let exposition = &mut *self.exposition;
        exposition.text.push_str(self.name);
        for (at, (label, value)) in labels.iter().enumerate() {
            exposition.push(format_args!("{}{label}=\"", if at == 0 { '{' } else { ',' }));
            value.chars().for_each(|char| exposition.push_escaped(char, true));
            exposition.text.push('"');
        }
        exposition.push(format_args!("{} {value}\n", if labels.is_empty() { "" } else { "}" }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_metric_is_its_help_its_type_and_its_samples() {
        let mut exposition = Exposition::default();
        let mut cpu = exposition.metric(Kind::Counter, "wharf_cpu_seconds_total", "CPU time.");
        cpu.sample(&[("app", "hello"), ("release", "3")], Value::Millis(12_034));
        cpu.sample(&[("app", "crash"), ("release", "1")], Value::Millis(7));
        exposition.metric(Kind::Gauge, "wharf_stores", "Places.").sample(&[], Value::Whole(u64::MAX));
        assert_eq!(
            exposition.into_text(),
            "# HELP wharf_cpu_seconds_total CPU time.\n\
             # TYPE wharf_cpu_seconds_total counter\n\
             wharf_cpu_seconds_total{app=\"hello\",release=\"3\"} 12.034\n\
             wharf_cpu_seconds_total{app=\"crash\",release=\"1\"} 0.007\n\
             # HELP wharf_stores Places.\n\
             # TYPE wharf_stores gauge\n\
             wharf_stores 18446744073709551615\n"
        );
    }

    #[test]
    fn whatever_a_label_holds_it_stays_one_line_and_one_label() {
        let mut exposition = Exposition::default();
        let mut info = exposition.metric(Kind::Gauge, "wharf_info", "A \"help\"\\\n.");
        info.sample(&[("hostname", "a\"} 1\nwharf_lie 2 \\")], Value::Whole(1));
        assert_eq!(
            exposition.into_text(),
            "# HELP wharf_info A \"help\"\\\\\\n.\n\
             # TYPE wharf_info gauge\n\
             wharf_info{hostname=\"a\\\"} 1\\nwharf_lie 2 \\\\\"} 1\n"
        );
    }
}
