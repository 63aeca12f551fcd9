//! `wharf top`: invocations, CPU time, memory and traffic.
//!
//! The platform counts totals since its workers started; a rate needs two samples. At a terminal the table is drawn anew
//! every second, elsewhere it is printed once.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context as _;
use console::Term;
use wharf_types::AppName;
use wharf_types::api::Usage;
use wharf_types::node::AppUsage;

use crate::output;
use crate::session::Session;
use crate::table::Table;

const PERIOD: Duration = Duration::from_secs(1);

pub async fn run(session: &Session) -> anyhow::Result<()> {
    let namespace = session.namespace()?;
    let first = session.client.usage(&namespace).await?;
    if session.json {
        return output::json(&first);
    }
    if !output::stdout_is_terminal() {
        return table(&rows(None, &first)).print();
    }
    let term = Term::stdout();
    let mut before = first;
    let mut drawn = 0;
    loop {
        tokio::time::sleep(PERIOD).await;
        let now = session.client.usage(&namespace).await?;
        let lines = table(&rows(Some(&before), &now)).lines(output::width());
        term.clear_last_lines(drawn).context("could not draw on the terminal")?;
        lines.iter().try_for_each(output::line)?;
        drawn = lines.len();
        before = now;
    }
}

/// One release: its totals, and what it did since the sample before.
#[derive(Debug, PartialEq)]
struct Row {
    total: AppUsage,
    /// None: there is no sample before.
    per_second: Option<f64>,
    /// CPU time per time, in percent of one core.
    cpu_percent: Option<f64>,
}

fn rows(before: Option<&Usage>, now: &Usage) -> Vec<Row> {
    let mut old: BTreeMap<(AppName, u64), AppUsage> = BTreeMap::new();
    for usage in before.into_iter().flat_map(|usage| &usage.apps) {
        old.insert((usage.app.clone(), usage.release), usage.clone());
    }
    let secs =
        before.map(|before| (now.time.as_millisecond() - before.time.as_millisecond()) as f64 / 1000.0);
    let secs = secs.filter(|secs| *secs > 0.0);
    let row = |usage: &AppUsage| {
        let old = old.get(&(usage.app.clone(), usage.release));
        // Totals start over with the worker: a smaller number counts from nothing.
        let grown = |now: u64, old: Option<u64>| now.checked_sub(old.unwrap_or(0)).unwrap_or(now) as f64;
        Row {
            total: usage.clone(),
            per_second: secs.map(|secs| grown(usage.invocations, old.map(|old| old.invocations)) / secs),
            cpu_percent: secs
                .map(|secs| grown(usage.cpu_millis, old.map(|old| old.cpu_millis)) / secs / 10.0),
        }
    };
    let mut rows: Vec<Row> = now.apps.iter().map(row).collect();
    rows.sort_by(|a, b| (&a.total.app, a.total.release).cmp(&(&b.total.app, b.total.release)));
    rows
}

fn table(rows: &[Row]) -> Table {
    let mut table = Table::new([
        "APP",
        ">RELEASE",
        ">REQ/S",
        ">ACTIVE",
        ">CPU",
        ">CPU MS",
        ">MEMORY",
        ">IN",
        ">OUT",
        ">INVOCATIONS",
        ">TRAPS",
        ">LIMITED",
        ">REFUSED",
    ]);
    for Row { total, per_second, cpu_percent } in rows {
        table.row([
            total.app.to_string(),
            total.release.to_string(),
            per_second.map_or_else(|| "-".to_owned(), |rate| format!("{rate:.1}")),
            total.active.to_string(),
            cpu_percent.map_or_else(|| "-".to_owned(), |percent| format!("{percent:.0} %")),
            total.cpu_millis.to_string(),
            output::bytes(total.memory_bytes),
            output::bytes(total.received_bytes),
            output::bytes(total.sent_bytes),
            total.invocations.to_string(),
            total.traps.to_string(),
            total.limited.to_string(),
            total.refused.to_string(),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usage(second: i64, invocations: u64, cpu_millis: u64) -> Usage {
        let app = AppUsage {
            invocations,
            cpu_millis,
            ..AppUsage::new("default".parse().unwrap(), "hello".parse().unwrap(), 1)
        };
        Usage { time: wharf_types::Timestamp::from_second(second).unwrap(), apps: vec![app] }
    }

    #[test]
    fn rates_come_from_two_samples() {
        let row = &rows(Some(&usage(10, 100, 1000)), &usage(12, 300, 2000))[0];
        assert_eq!((row.per_second, row.cpu_percent), (Some(100.0), Some(50.0)));
        assert_eq!(rows(None, &usage(12, 300, 2000))[0].per_second, None);
    }

    #[test]
    fn a_restarted_worker_counts_from_nothing() {
        let row = &rows(Some(&usage(10, 1000, 1000)), &usage(11, 5, 0))[0];
        assert_eq!(row.per_second, Some(5.0));
    }

    #[test]
    fn samples_of_the_same_moment_have_no_rate() {
        assert_eq!(rows(Some(&usage(10, 1, 1)), &usage(10, 2, 2))[0].per_second, None);
    }
}
