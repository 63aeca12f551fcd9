//! `wharf logs`: what an app prints, and what the platform says in its stream.

use std::collections::HashMap;

use clap::Args;
use wharf_types::AppName;
use wharf_types::InstanceId;
use wharf_types::api::Page;
use wharf_types::log::{LogRecord, LogStream};

use crate::follow::follow;
use crate::output;
use crate::session::Session;

#[derive(Args, Debug)]
pub struct LogsArgs {
    /// Left out: --app, then the app of wharf.toml in this folder
    #[arg(value_name = "APP")]
    pub name: Option<AppName>,
    /// Wait for more
    #[arg(short, long)]
    pub follow: bool,
    /// Start with this many of the last lines
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub tail: u32,
}

/// Instances whose last record is remembered; far more than print at once.
const INSTANCES_MAX: usize = 4096;

pub async fn run(session: &Session, args: LogsArgs) -> anyhow::Result<()> {
    let app = session.app(args.name)?;
    let path = app.path("/logs");
    let tail = ("tail", args.tail.to_string());
    if !args.follow {
        let page: Page<LogRecord> = session.client.page(&path, &[tail]).await?;
        return page.items.iter().try_for_each(|record| print(session, record));
    }
    let mut seen = Seen::default();
    let on_record = |record: LogRecord| {
        if seen.is_new(&record) { print(session, &record) } else { Ok(()) }
    };
    match follow(&session.client, &path, &[tail], on_record).await? {}
}

/// Which records were printed: after a broken connection some may come again.
#[derive(Debug, Default)]
struct Seen {
    last: HashMap<InstanceId, u64>,
}

impl Seen {
    fn is_new(&mut self, record: &LogRecord) -> bool {
        if self.last.len() >= INSTANCES_MAX && !self.last.contains_key(&record.instance) {
            self.last.clear();
        }
        match self.last.get_mut(&record.instance) {
            Some(last) if record.seq <= *last => false,
            Some(last) => {
                *last = record.seq;
                true
            }
            None => {
                self.last.insert(record.instance, record.seq);
                true
            }
        }
    }
}

fn print(session: &Session, record: &LogRecord) -> anyhow::Result<()> {
    if session.json {
        return output::json(record);
    }
    output::line(text(record))
}

/// `TIME RELEASE/INSTANCE STREAM| MESSAGE`
fn text(record: &LogRecord) -> String {
    let (stream, style) = match record.stream {
        LogStream::Stdout => ("out", output::style().green()),
        LogStream::Stderr => ("err", output::style().yellow()),
        LogStream::Platform => ("wharf", output::style().cyan()),
    };
    let time = output::style().dim().apply_to(format!("{:.3}", record.time));
    let who = format!("{}/{}", record.release, output::short_id(record.instance));
    // Away from a terminal the guest's own octets are kept: somebody may have asked for exactly those.
    let message = if output::stdout_is_terminal() {
        output::printable(&record.message)
    } else {
        (&record.message).into()
    };
    format!("{time} {who} {}| {message}", style.apply_to(stream))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(instance: InstanceId, seq: u64) -> LogRecord {
        LogRecord {
            time: "2026-11-24T06:31:22.5Z".parse().unwrap(),
            namespace: "default".parse().unwrap(),
            app: "hello".parse().unwrap(),
            release: 3,
            instance,
            stream: LogStream::Stdout,
            seq,
            message: "hi".into(),
        }
    }

    #[test]
    fn a_line_names_time_release_instance_and_stream() {
        let instance: InstanceId = "0190163d-8694-739b-aea5-966c26f8ad91".parse().unwrap();
        assert_eq!(text(&record(instance, 0)), "2026-11-24T06:31:22.500Z 3/26f8ad91 out| hi");
    }

    #[test]
    fn a_record_that_comes_again_is_not_printed_again() {
        let (a, b) = (InstanceId::new(), InstanceId::new());
        let mut seen = Seen::default();
        let new: Vec<bool> = [(a, 0), (a, 1), (b, 0), (a, 0), (a, 1), (a, 2)]
            .map(|(id, seq)| seen.is_new(&record(id, seq)))
            .into();
        assert_eq!(new, [true, true, true, false, false, true]);
    }
}
