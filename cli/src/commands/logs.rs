//! `wharf logs`: what an app prints, and what the platform says in its stream.

use clap::Args;
use wharf_types::AppName;
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

pub async fn run(session: &Session, args: LogsArgs) -> anyhow::Result<()> {
    let app = session.app(args.name)?;
    let path = app.path("/logs");
    let tail = ("tail", args.tail.to_string());
    if !args.follow {
        let page: Page<LogRecord> = session.client.page(&path, &[tail]).await?;
        return page.items.iter().try_for_each(|record| print(session, record));
    }
    match follow(&session.client, &path, &[tail], |record| print(session, &record)).await? {}
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

    #[test]
    fn a_line_names_time_release_instance_and_stream() {
        let record = LogRecord {
            time: "2026-11-24T06:31:22.5Z".parse().unwrap(),
            namespace: "default".parse().unwrap(),
            app: "hello".parse().unwrap(),
            job: None,
            release: 3,
            instance: "0190163d-8694-739b-aea5-966c26f8ad91".parse().unwrap(),
            stream: LogStream::Stdout,
            seq: 0,
            message: "hi".into(),
        };
        assert_eq!(text(&record), "2026-11-24T06:31:22.500Z 3/26f8ad91 out| hi");
    }
}
