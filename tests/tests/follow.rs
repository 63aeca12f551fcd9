//! `logs -f` and `events -f`: everything that happens is told, and told once.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::process::Stdio;

use serde::de::DeserializeOwned;
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdout};
use wharf_tests::{Platform, SHORT, within};
use wharf_types::event::Event;
use wharf_types::log::LogRecord;

/// A command that goes on and prints one JSON object a line. It ends with the test.
struct Followed {
    lines: Lines<BufReader<ChildStdout>>,
    _child: Child,
}

impl Followed {
    fn start(platform: &Platform, args: &[&str]) -> Self {
        let mut command = platform.user().command(args);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        let mut child = command.spawn().unwrap();
        Self { lines: BufReader::new(child.stdout.take().unwrap()).lines(), _child: child }
    }

    /// The next value for which `is` holds, after any number of others.
    async fn next<T: DeserializeOwned>(&mut self, what: &str, is: impl Fn(&T) -> bool) -> T {
        let found = async {
            loop {
                let line = self.lines.next_line().await.unwrap().expect("the command goes on");
                let value = serde_json::from_str::<T>(&line).unwrap();
                if is(&value) {
                    return value;
                }
            }
        };
        within(SHORT, what, found).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn followed_logs_hold_every_error_of_the_front_door() {
    let platform = Platform::start().await;
    platform.deploy("crash", "crash", &[]).await;
    let mut logs = Followed::start(&platform, &["logs", "crash", "-f", "--json"]);
    // The front door's own records have no number of their own: they must not be taken for one another.
    let mut told = Vec::new();
    for _ in 0..3 {
        assert_eq!(platform.get("crash", "/trap").await.unwrap().status, 502);
        let is_error = |record: &LogRecord| record.message.contains("GET /trap answered 502");
        told.push(logs.next("the front door's error", is_error).await.message);
    }
    told.sort();
    told.dedup();
    assert_eq!(told.len(), 3, "each names a request of its own: {told:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn events_of_an_app_that_never_was_are_not_found() {
    let platform = Platform::start().await;
    platform.wharf(&["events", "nobody"]).await.fails(3, &["nobody"]);
    platform.wharf(&["events", "nobody", "-f"]).await.fails(3, &["nobody"]);
    platform.deploy("hello", "gone", &[]).await;
    platform.wharf(&["delete", "gone", "--yes"]).await.ok();
    assert!(platform.wharf(&["events", "gone"]).await.ok().contains("gone"));
}

#[tokio::test(flavor = "multi_thread")]
async fn followed_events_begin_with_the_first_and_go_on_with_what_happens() {
    let platform = Platform::start().await;
    platform.deploy("hello", "before", &[]).await;
    let mut events = Followed::start(&platform, &["events", "-f", "--json"]);
    let of =
        |app: &'static str| move |event: &Event| event.app.as_ref().is_some_and(|name| name.as_str() == app);
    let first = events.next("an event of the app that was there", of("before")).await;
    platform.deploy("hello", "after", &[]).await;
    let second = events.next("an event of the app that is new", of("after")).await;
    assert!(first.seq < second.seq);
}
