//! What a worker and its control plane say to each other is what was recorded.
//!
//! `wire/` has a folder for each version of the node protocol that is spoken, and in it a file for each message: the newest as this program writes
//! it, the one before as programs of that version did.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::PathBuf;
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use wharf_types::api::{
    AUTHORITIES_HEADER, ArtifactSources, CertificateRequest, Leaving, NodeCertificate, SERVERS_HEADER,
};
use wharf_types::delta::{AssignmentDelta, DELTAS, Told};
use wharf_types::exec::{Decoder, ExecOrder, Frame, MEDIA_TYPE, WindowSize};
use wharf_types::keyvalue::{KeyValueReply, KeyValueRequest};
use wharf_types::log::LogRecord;
use wharf_types::node::{Assignment, NodeRegistration, NodeReport, ReportAnswer};
use wharf_types::problem::ProblemCode;
use wharf_types::protocol::{HEADER, SPOKEN};
use wharf_types::spec::Replicas;
use wharf_types::transfer::{Restored, TransferOrder};
use wharf_types::{NodeId, Problem};

/// What whoever has changed a message is told.
const HOW: &str = "what is said on the wire has changed, and a worker and a control plane of different versions have to go on together. \
     Is it a new field that the older side passes over, and whose absence the newer side understands (`#[serde(default)]`)? \
     Then run this test with UPDATE=1 and look at the change in types/tests/wire. \
     Is it anything else (a field that is gone, renamed or refused by the older side, another meaning)? \
     Then make the newest version in types/src/protocol.rs one greater, keep the recorded folder as that of the version before, record the new one with UPDATE=1, \
     and leave the new things out towards who does not know them (`Versions::knows`): docs/decisions/0048-older-versions.md";

/// A message is read, and written again.
type Again = fn(&str) -> Result<Value, serde_json::Error>;

fn again<T: Serialize + DeserializeOwned>(text: &str) -> Result<Value, serde_json::Error> {
    serde_json::to_value(serde_json::from_str::<T>(text)?)
}

const MESSAGES: &[(&str, Again)] = &[
    ("registration", again::<NodeRegistration>),
    ("assignment", again::<Assignment>),
    ("delta", again::<AssignmentDelta>),
    ("report", again::<NodeReport>),
    ("report-answer", again::<ReportAnswer>),
    ("leaving", again::<Leaving>),
    ("logs", again::<Vec<LogRecord>>),
    ("keyvalue-requests", again::<Vec<KeyValueRequest>>),
    ("keyvalue-replies", again::<Vec<KeyValueReply>>),
    ("certificate-request", again::<CertificateRequest>),
    ("certificate", again::<NodeCertificate>),
    ("artifact-sources", again::<ArtifactSources>),
    ("exec-order", again::<ExecOrder>),
    ("transfer-orders", again::<Vec<TransferOrder>>),
    ("restored", again::<Restored>),
    ("problem", again::<Problem>),
];

/// Messages whose readers refuse every field that they do not know.
const STRICT: &[&str] = &["registration", "keyvalue-requests", "certificate-request"];

fn folder(version: u32) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/wire").join(version.to_string())
}

/// What was recorded of a message. None: the version did not have it.
fn recorded(version: u32, name: &str) -> Option<String> {
    std::fs::read_to_string(folder(version).join(name).with_extension("json")).ok()
}

fn value(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

#[test]
fn every_message_is_read_and_written_as_it_was_recorded() {
    let newest = SPOKEN.newest();
    for (name, again) in MESSAGES {
        let text = recorded(newest, name).unwrap_or_else(|| {
            panic!("there is no types/tests/wire/{newest}/{name}.json: record an example of it with every field. {HOW}")
        });
        let written =
            again(&text).unwrap_or_else(|error| panic!("{name} is not read any more: {error}. {HOW}"));
        if std::env::var_os("UPDATE").is_some() {
            let text = serde_json::to_string_pretty(&written).unwrap() + "\n";
            std::fs::write(folder(newest).join(name).with_extension("json"), text).unwrap();
        } else {
            assert_eq!(written, value(&text), "{name}: {HOW}");
        }
    }
}

#[test]
fn every_message_of_the_version_before_is_read_and_nothing_of_it_is_lost() {
    let before = SPOKEN.newest() - 1;
    let mut read = 0;
    for (name, again) in MESSAGES {
        let Some(text) = recorded(before, name) else { continue };
        let written = again(&text).unwrap_or_else(|error| {
            panic!("{name} of version {before} is not read any more: {error}. {HOW}")
        });
        is_kept(&value(&text), &written, name);
        read += 1;
    }
    assert!(read > 0, "nothing is recorded of version {before}");
    for file in std::fs::read_dir(folder(before)).unwrap() {
        let file = file.unwrap().path();
        let name = file.file_stem().unwrap().to_str().unwrap();
        assert!(MESSAGES.iter().any(|(known, _)| *known == name), "nothing reads {name} any more. {HOW}");
    }
}

/// Whether all that was said is said again, whatever is said beside it.
fn is_kept(before: &Value, now: &Value, at: &str) {
    match (before, now) {
        (Value::Object(before), Value::Object(now)) => {
            for (key, value) in before {
                let at = format!("{at}.{key}");
                is_kept(value, now.get(key).unwrap_or_else(|| panic!("{at} is lost. {HOW}")), &at);
            }
        }
        (Value::Array(before), Value::Array(now)) if before.len() == now.len() => {
            for (number, (before, now)) in before.iter().zip(now).enumerate() {
                is_kept(before, now, &format!("{at}[{number}]"));
            }
        }
        _ => assert_eq!(before, now, "{at}: {HOW}"),
    }
}

#[test]
fn what_asks_for_nothing_new_is_said_in_fields_that_a_strict_reader_of_the_version_before_knows() {
    let before = SPOKEN.newest() - 1;
    for (name, again) in MESSAGES.iter().filter(|(name, _)| STRICT.contains(name)) {
        let text = recorded(before, name).unwrap();
        assert_eq!(again(&text).unwrap(), value(&text), "{name}: {HOW}");
    }
    // Workers refuse settings that they do not know, and with these the whole assignment.
    let text = recorded(before, "assignment").unwrap();
    let specs = |assignment: &Value| {
        let instances = assignment["instances"].as_array().unwrap();
        instances.iter().map(|instance| instance["spec"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(specs(&again::<Assignment>(&text).unwrap()), specs(&value(&text)), "spec: {HOW}");
}

/// A reader of version 1 takes a number or a table for `scale.replicas`, and with a word refuses the whole assignment.
#[test]
fn that_an_app_is_global_is_not_said_to_workers() {
    let text = recorded(SPOKEN.newest() - 1, "assignment").unwrap();
    let mut assignment: Assignment = serde_json::from_str(&text).unwrap();
    let of_one = serde_json::to_value(&assignment).unwrap();
    assert!(!assignment.instances.is_empty());
    for instance in &mut assignment.instances {
        Arc::make_mut(&mut instance.spec).scale.replicas = Replicas::GLOBAL;
    }
    assert_eq!(serde_json::to_value(&assignment).unwrap(), of_one, "{HOW}");
}

#[test]
fn a_line_with_a_delta_is_told_from_one_with_all() {
    let newest = SPOKEN.newest();
    let whole = recorded(newest, "assignment").unwrap();
    let whole = serde_json::to_vec(&value(&whole)).unwrap();
    assert!(matches!(Told::read(&whole).unwrap(), Told::Whole(_)));
    let delta: AssignmentDelta = serde_json::from_str(&recorded(newest, "delta").unwrap()).unwrap();
    let routes = serde_json::to_vec(delta.routes.as_deref().unwrap()).unwrap();
    let line = delta.line(Some(&routes)).unwrap();
    assert!(line.starts_with(b"{\"delta\":{") && line.ends_with(b"}\n"), "{HOW}");
    assert_eq!(Told::read(&line).unwrap(), Told::Delta(Box::new(delta)));
}

#[test]
fn frames_are_the_octets_that_they_were() {
    let frames: [(Frame, &[u8]); 7] = [
        (Frame::Start(b"{}".to_vec()), b"\x00\x00\x00\x00\x02{}"),
        (Frame::Stdin(b"in".to_vec()), b"\x01\x00\x00\x00\x02in"),
        (Frame::Stdout(b"out".to_vec()), b"\x02\x00\x00\x00\x03out"),
        (Frame::Stderr(Vec::new()), b"\x03\x00\x00\x00\x00"),
        (Frame::Resize(WindowSize { columns: 80, rows: 258 }), b"\x04\x00\x00\x00\x04\x00\x50\x01\x02"),
        (Frame::Exit(-2), b"\x05\x00\x00\x00\x04\xff\xff\xff\xfe"),
        (Frame::Ping, b"\x07\x00\x00\x00\x00"),
    ];
    for (frame, octets) in frames {
        assert_eq!(frame.encode(), octets, "{frame:?}: {HOW}");
        let mut decoder = Decoder::default();
        decoder.push(octets);
        assert_eq!(decoder.next_frame(), Ok(Some(frame)), "{HOW}");
    }
    let error = Frame::Error(Problem::new(ProblemCode::Conflict, "why")).encode();
    let content = &error[5..];
    assert_eq!(error[..5], [6, 0, 0, 0, u8::try_from(content.len()).unwrap()], "{HOW}");
    let problem: Problem = serde_json::from_slice(content).unwrap();
    assert_eq!((problem.code, problem.detail.as_str()), (ProblemCode::Conflict, "why"));
}

#[test]
fn the_words_around_the_messages_are_what_they_were() {
    let words = [HEADER, AUTHORITIES_HEADER, SERVERS_HEADER, DELTAS, MEDIA_TYPE];
    let were = [
        "wharf-protocol",
        "wharf-authorities",
        "wharf-servers",
        "application/vnd.wharf.deltas+x-ndjson",
        "application/vnd.wharf.exec",
    ];
    assert_eq!(words, were, "{HOW}");
    let node: NodeId = "01900000-0000-7000-8000-000000000001".parse().unwrap();
    assert_eq!(serde_json::to_string(&node).unwrap(), format!("\"{node}\""), "{HOW}");
}
