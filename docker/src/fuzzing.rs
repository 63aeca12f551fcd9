//! The parsers of this crate that take octets from outside, and what holds of each whatever comes.
//!
//! `fuzz/` gives them to a fuzzer; the test below tries them with their seeds and with random changes of these.

#[cfg(test)]
#[path = "../../fuzz/mutations.rs"]
mod mutations;
#[path = "../../fuzz/parser.rs"]
mod parser;

use std::collections::HashMap;
use std::io::Cursor;

use bollard::container::LogOutput;
use bollard::models::{BuildInfo, ImageConfig};
use bytes::Bytes;
use serde_json::Value;
use wharf_types::image::ImageReference;
use wharf_types::log::LogStream;

use crate::archive::{find_manifest, renamed};
use crate::build::said::{Seen, code_of};
use crate::image::{classify, read_config};
use crate::logs::{Lines, timed};
use crate::terminal::status_of;
use crate::{Credentials, ImageId, LogMark, labels};

pub use parser::Parser;

#[rustfmt::skip]
pub const PARSERS: &[Parser] = &[
    ("credentials", credentials, &[b"ann:a:b\r\n", b"ann:", b":b", b"\n"]),
    ("image-ids", image_ids, &[b"sha256:0000000000000000000000000000000000000000000000000000000000000000"]),
    ("image-configs", image_configs, &[
        br#"{"Entrypoint":["a"],"Cmd":["b"],"User":"1:1","ExposedPorts":{"80/tcp":{}},"Volumes":{"/data":{}},"Healthcheck":{"Test":["CMD-SHELL","x"],"Interval":1000000000,"Retries":3},"StopSignal":""}"#,
        br#"{"Healthcheck":{"Test":["CMD"],"Timeout":-1,"StartPeriod":9223372036854775807,"Retries":-3}}"#,
    ]),
    ("archives", archives, &[include_bytes!("fuzzing/archive.tar"), &[0; 1024]]),
    ("archive-manifests", archive_manifests, &[br#"[{"Config":"a.json","RepoTags":["nginx:1"],"Layers":["a/layer.tar"]}]"#, b"[{},{}]"]),
    ("answers-of-registries", answers_of_registries, &[b"manifest unknown", b"unauthorized: authentication required", b"dial tcp: no such host", b"toomanyrequests"]),
    ("answers-of-the-engine", answers_of_the_engine, &[b"HTTP/1.1 101 UPGRADED\r\nUpgrade: tcp", b"HTTP/1.0 409\r\n"]),
    ("labels", labels_of_containers, &[
        b"wharf.platform=p\nwharf.namespace=a\nwharf.app=b\nwharf.release=7\nwharf.slot=3\nwharf.instance=018f0000-0000-7000-8000-000000000000",
        b"wharf.look=018f0000-0000-7000-8000-000000000000",
    ]),
    ("builds", builds, &[b"Step 1/3 : FROM base:1 AS one\n ---> a8f707c465d4\n ---> Running in 2f1c4a87b60b\n ---> c578caa4362b\nThe command 'x' returned a non-zero code: 7"]),
    ("logs", logs, &[b"2026-01-01T00:00:00.000000001Z one\n\x002026-01-01T00:00:00.000000001Z two\x00\n\x00 x\n\x002026-01-01T00:00:01Z three"]),
];

fn text(data: &[u8]) -> &str {
    std::str::from_utf8(data).unwrap_or_default()
}

/// All of a login is taken, and nothing of its password is shown.
fn credentials(data: &[u8]) {
    let text = text(data);
    let Ok(login) = Credentials::parse(text) else { return };
    let written = format!("{}:{}", login.username, login.password.reveal());
    assert_eq!(written, text.trim_end_matches(['\n', '\r']));
    assert!(!login.username.contains(':'));
    let other = Credentials { password: "another".to_owned().into(), ..login.clone() };
    assert_eq!(format!("{login:?}"), format!("{other:?}"), "nothing of a password is shown");
}

fn image_ids(data: &[u8]) {
    if let Ok(id) = text(data).parse::<ImageId>() {
        assert_eq!(id.to_string().parse(), Ok(id));
    }
}

/// What somebody's image says of how it is to be run.
fn image_configs(data: &[u8]) {
    let Ok(config) = serde_json::from_slice::<ImageConfig>(data) else { return };
    let config = read_config(config);
    assert!(config.stop_signal.is_none_or(|signal| !signal.is_empty()));
    if let Some(health) = config.health {
        let spans = [health.interval, health.timeout, health.start_period, health.start_interval];
        assert!(spans.into_iter().flatten().all(|span| !span.is_zero()), "{spans:?}");
        assert_ne!(health.retries, Some(0));
    }
}

/// A manifest is short, whatever an archive says of its own length.
fn archives(data: &[u8]) {
    match find_manifest(Cursor::new(data)) {
        Ok(manifest) => assert!(manifest.len() <= 1 << 20),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

/// What goes to the engine names one image, as we want it.
fn archive_manifests(data: &[u8]) {
    let Ok(written) = renamed(data, "ours:1") else { return };
    let images: Vec<Value> = serde_json::from_slice(&written).expect("what is written can be read");
    assert_eq!(images.len(), 1);
    assert_eq!(images[0]["RepoTags"], serde_json::json!(["ours:1"]));
}

/// What a registry says is told, but not without a bound.
fn answers_of_registries(data: &[u8]) {
    let reference: ImageReference = "registry.example.com/a:1".parse().expect("that is a reference");
    for status in [200, 401, 404, 500] {
        let text = classify(&reference, status, &String::from_utf8_lossy(data)).to_string();
        assert!(text.len() <= 8000, "an error of {} octets: {text:.200}", text.len());
    }
}

fn answers_of_the_engine(data: &[u8]) {
    if status_of(data).is_some() {
        assert!(data.starts_with(b"HTTP/1."));
    }
}

/// One label a line. An instance that is read is read of what is written for it, too.
fn labels_of_containers(data: &[u8]) {
    let pairs = text(data).lines().filter_map(|line| line.split_once('='));
    let found: HashMap<String, String> =
        pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    if let Some((id, owner)) = labels::read(&found) {
        let written = labels::of_instance("p", id, &owner);
        assert_eq!(labels::read(&written), Some((id, owner)));
        assert_eq!(labels::serves(&found), Some(id));
    }
}

/// What steps print beside the builder's own words takes little memory.
fn builds(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let mut seen = Seen::default();
    for line in text.split_inclusive('\n') {
        seen.take(&BuildInfo { stream: Some(line.to_owned()), ..BuildInfo::default() });
        let _ = code_of(line);
    }
    assert!(seen.containers.iter().chain(&seen.images).all(|id| id.len() == 12));
}

/// Entries between NULs, in turn of both streams by their length. Nothing of them is lost.
fn logs(data: &[u8]) {
    let mut lines = Lines::new(LogMark::default());
    let mut found = Vec::new();
    let mut printed = [Vec::new(), Vec::new()];
    for entry in data.split(|octet| *octet == 0) {
        let message = Bytes::copy_from_slice(entry);
        let (_, octets) = timed(message.clone());
        let is_error = entry.len() % 2 == 1;
        printed[usize::from(is_error)].extend_from_slice(octets.strip_suffix(b"\n").unwrap_or(&octets));
        found.extend(lines.take(match is_error {
            true => LogOutput::StdErr { message },
            false => LogOutput::StdOut { message },
        }));
    }
    found.extend(lines.end());
    if std::str::from_utf8(data).is_err() {
        return;
    }
    for (stream, printed) in [LogStream::Stdout, LogStream::Stderr].into_iter().zip(printed) {
        let of_it = found.iter().filter(|line| line.stream == stream);
        let told: String = of_it.map(|line| line.text.as_str()).collect();
        assert_eq!(told.as_bytes(), &printed[..]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_comes_a_parser_keeps_its_word() {
        mutations::try_each(PARSERS, 2000);
    }

    #[test]
    fn the_archive_that_is_changed_is_one() {
        let archive = include_bytes!("fuzzing/archive.tar");
        assert!(find_manifest(Cursor::new(&archive[..])).unwrap().starts_with(b"[{"));
    }
}
