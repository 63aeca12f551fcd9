//! The parsers of this crate that take octets from outside, and what holds of each whatever comes.
//!
//! `fuzz/` gives them to a fuzzer; the test below tries them with their seeds and with random changes of these.

#[cfg(test)]
#[path = "../../fuzz/mutations.rs"]
mod mutations;
#[path = "../../fuzz/parser.rs"]
mod parser;

use std::fmt::{Debug, Display};
use std::str::FromStr;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::declare::Resource;
use crate::declare::document::{AppDocument, ArtifactSource, ConfigDocument, NamespaceDocument};
use crate::delta::{AssignmentDelta, Told};
use crate::exec::{Decoder, Frame};
use crate::image::{ImageDocument, ImageReference};
use crate::job::JobSpec;
use crate::log::LogRecord;
use crate::manifest::Manifest;
use crate::node::{Assignment, NodeRegistration, NodeReport, parse_label};
use crate::protocol::Versions;
use crate::quantity::{ByteSize, CpuShare, Span};
use crate::route::{RoutePattern, RouteTable};
use crate::schedule::ScheduleSpec;
use crate::secret::SecretValue;
use crate::spec::placement::Constraint;
use crate::spec::{AppSpec, OutboundGrant, Portion, Ratio};
use crate::world::{InterfaceName, World, capabilities};
use crate::{AppName, Digest, InstanceId, NodeId, Problem, archive, keyvalue};

pub use parser::Parser;

#[rustfmt::skip]
pub const PARSERS: &[Parser] = &[
    ("manifest", manifest, &[
        include_bytes!("../../examples/hello/wharf.toml"),
        b"app = \"a\"\n[http]\nroutes = [\"a.example.com/b\"]\n[limits]\nmemory = \"64MiB\"\n[update]\nparallelism = \"25%\"\n[update.canary]\nshare = 0.1\n",
        b"app = \"a\"\n[[volumes]]\nname = \"data\"\npath = \"/data\"\nsize = \"1GiB\"\n[placement]\nconstraints = [\"node.labels.zone == a\"]\n",
    ]),
    ("documents", documents, &[
        br#"{"kind":"app","name":"a","artifact":"a.wasm","env":{"A":"b"},"files":{"folder":"public"}}"#,
        br#"{"kind":"namespace","name":"a"}"#,
        br#"{"kind":"config","name":"a","value":"b"}"#,
    ]),
    ("resources", resources, &[
        br#"{"kind":"app","namespace":"a","name":"b","artifact":"sha256:0000000000000000000000000000000000000000000000000000000000000000","spec":{"scale":{"replicas":2}}}"#,
        br#"{"kind":"namespace","name":"a"}"#,
        br#"{"kind":"config","namespace":"a","name":"b","value":"c"}"#,
    ]),
    ("specs", specs, &[
        br#"{"env":{"A":"b"},"secrets":{"P":"password"},"args":["x"],"tcp":{"ports":[7000]},"limits":{"memory":"64MiB","timeout":"5s"}}"#,
        br#"{"update":{"parallelism":"25%","max_failure_ratio":"10%","canary":{"share":0.5}},"reserve":{"cpu":"500m","memory":"1GiB"}}"#,
        br#"{"http":{"routes":["a.example.com/x"],"health":{"path":"/h"}},"outbound":{"allow":["https://*.example.com"]},"reuse":{"mode":"serial"}}"#,
        br#"{"volumes":[{"name":"data","path":"/data","size":"1GiB"}],"placement":{"constraints":["node.cpus >= 2"],"spread":["zone"]}}"#,
    ]),
    ("jobs", jobs, &[
        br#"{"completions":3,"parallelism":2,"retries":1,"backoff":"1s","timeout":"5m","ttl":"1h","args":["a"]}"#,
        br#"{"cron":"30 2 * * mon-fri","timezone":"Europe/Berlin","overlap":"allow","missed":"run-all","job":{"app":"a"}}"#,
    ]),
    ("routes", routes, &[b"hello.example.com/api/v1/", b"a", b"a_b.c/%20"]),
    ("grants", grants, &[b"https://api.example.com", b"tcp://10.0.0.0/8:5432", b"udp://[2001:db8::1]:53", b"http://*.example.com:*", b"https://*"]),
    ("protocol versions", versions, &[b"1-2", b"0-4294967295", b"2-1"]),
    ("constraints", constraints, &[
        b"node.labels.zone in (eu-1, eu-2)", b"node.memory >= 16GiB", b"node.platform.os != linux", b"node.labels.rack not in (1,2)", b"node.cpus < 4",
    ]),
    ("amounts", amounts, &[b"25%", b"0.1", b"128MiB", b"1m 30s 5ms", b"500m", b"1.25", b"18446744073709551615B", b"9y"]),
    ("words", words, &[b"my-app", b"sha256:0000000000000000000000000000000000000000000000000000000000000000", b"zone=eu-1", b"wasi:http/incoming-handler@0.2.3", b"[method]request.path-with-query"]),
    ("images", images, &[
        b"registry.example.com:5000/team/app:1.2", b"redis@sha256:0000000000000000000000000000000000000000000000000000000000000000", b"[::1]:5000/a",
        br#"{"image":"redis:7","digest":"sha256:0000000000000000000000000000000000000000000000000000000000000000","platforms":[{"os":"linux","architecture":"arm64","variant":"v8"}]}"#,
    ]),
    ("archives", archives, &[&ONE_FILE, &[0; 1024]]),
    ("assignments", assignments, &[
        br#"{"generation":1,"instances":[],"routes":{"generation":1,"routes":[]}}"#,
        br#"{"routes":[{"pattern":"a.b/","app":"a","namespace":"b","endpoints":[]}]}"#,
        br#"{"delta":{"node":"018f0000-0000-7000-8000-000000000000","after":1,"generation":2,"dropped_instances":[]}}"#,
    ]),
    ("reports", reports, &[
        br#"{"hostname":"a","memory_bytes":1,"cpus":1,"version":"1","labels":{"zone":"a"}}"#,
        br#"{"generation":1,"routes_generation":1,"instances":[{"id":"00000000-0000-7000-8000-000000000000","state":"running","health":"healthy"}],"usage":[]}"#,
        br#"{"namespace":"a","app":"b","bucket":"c","op":{"get":{"key":"k"}}}"#,
    ]),
    ("log-records", log_records, &[
        br#"{"time":"2026-01-01T00:00:00Z","namespace":"a","app":"b","release":1,"instance":"00000000-0000-7000-8000-000000000000","stream":"stdout","seq":0,"message":"hi"}"#,
    ]),
    ("problems", problems, &[br#"{"status":404,"code":"not_found","title":"a","detail":"b"}"#]),
    ("exec-frames", exec_frames, &[b"\x02\0\0\0\x02hi\x05\0\0\0\x04\0\0\0\x07", b"\x04\0\0\0\x04\0\x50\0\x18\x01\0\0\0\0\x07\0\0\0\0"]),
    ("secret-values", secret_values, &[b"hunter2", b"\0", b"\xff", b""]),
];

/// A tar archive with the file `a` of one octet.
const ONE_FILE: [u8; 2048] = {
    const HEAD: &[(usize, &[u8])] = &[
        (0, b"a"),
        (100, b"0000644\x000000000\x000000000\x0000000000001\x0000000000000\x00006077\0 0"),
        (257, b"ustar\x0000"),
        (512, b"x"),
    ];
    let mut archive = [0; 2048];
    let mut part = 0;
    while part < HEAD.len() {
        let (start, octets) = HEAD[part];
        let mut at = 0;
        while at < octets.len() {
            archive[start + at] = octets[at];
            at += 1;
        }
        part += 1;
    }
    archive
};

/// Errors are for people: they quote what they are about, but not without a bound.
const ERROR_MAX_BYTES: usize = 2000;

fn short(error: &impl Display) {
    let text = error.to_string();
    assert!(text.len() <= ERROR_MAX_BYTES, "an error of {} octets: {:.200}", text.len(), text);
}

/// What is read is the same when it is written and read again.
fn survives<T: FromStr<Err: Display> + Display + PartialEq + Debug>(text: &str) {
    match text.parse::<T>() {
        Ok(value) => assert_eq!(value.to_string().parse::<T>().ok(), Some(value), "{text:?}"),
        Err(error) => short(&error),
    }
}

/// The same by JSON.
fn json<T: DeserializeOwned + Serialize + PartialEq + Debug>(data: &[u8]) -> Option<T> {
    let value: T = serde_json::from_slice(data).ok()?;
    let written = serde_json::to_vec(&value).expect("what was read can be written");
    let again: Result<T, _> = serde_json::from_slice(&written);
    assert_eq!(again.ok().as_ref(), Some(&value), "{}", written.escape_ascii());
    Some(value)
}

fn text(data: &[u8]) -> &str {
    std::str::from_utf8(data).unwrap_or_default()
}

fn checked(spec: &AppSpec) {
    for world in [World::HttpProxy, World::HttpService, World::CommandP1, World::CommandP2, World::CommandP3]
    {
        if let Err(error) = spec.validate().and_then(|()| spec.validate_for(world)) {
            short(&error);
        }
    }
    drop(capabilities(["wasi:http/outgoing-handler@0.2.0", "wasi:sockets/tcp@0.2.0"], spec));
}

fn manifest(data: &[u8]) {
    match Manifest::parse(text(data)) {
        Ok(manifest) => {
            let spec = manifest.spec();
            checked(&spec);
            json::<AppSpec>(&serde_json::to_vec(&spec).expect("a spec can be written"));
        }
        Err(error) => drop(error.to_string()),
    }
}

fn documents(data: &[u8]) {
    json::<NamespaceDocument>(data);
    if let Some(document) = json::<ConfigDocument>(data) {
        drop(document.validate());
    }
    if let Some(document) = json::<AppDocument>(data) {
        drop(document.validate());
        checked(&document.spec());
    }
}

fn resources(data: &[u8]) {
    if let Some(resource) = json::<Resource>(data) {
        drop(resource.id().to_string());
    }
}

fn specs(data: &[u8]) {
    if let Some(spec) = json::<AppSpec>(data) {
        checked(&spec);
    }
}

fn jobs(data: &[u8]) {
    if let Some(job) = json::<JobSpec>(data) {
        drop(job.validate());
        checked(&job.for_worker());
    }
    if let Some(schedule) = json::<ScheduleSpec>(data) {
        drop(schedule.validate());
    }
}

fn routes(data: &[u8]) {
    survives::<RoutePattern>(text(data));
    if let Ok(pattern) = text(data).parse::<RoutePattern>() {
        assert!(pattern.path_prefix().starts_with('/'));
        assert!(pattern.matches_path(pattern.path_prefix()));
        assert_eq!(pattern.hostname(), pattern.hostname().to_ascii_lowercase());
    }
}

fn grants(data: &[u8]) {
    match text(data).parse::<OutboundGrant>() {
        Ok(grant) => assert!(!grant.host.is_empty()),
        Err(error) => short(&error),
    }
}

fn versions(data: &[u8]) {
    match text(data).parse::<Versions>() {
        Ok(versions) => assert_eq!(versions.to_string().parse(), Ok(versions)),
        Err(error) => short(&error),
    }
}

fn constraints(data: &[u8]) {
    let node = NodeRegistration {
        hostname: "a".into(),
        memory_bytes: 1 << 30,
        cpus: 2,
        version: "1".into(),
        labels: [("zone".to_owned(), "eu-1".to_owned())].into(),
        os: "linux".into(),
        arch: "x86_64".into(),
        role: "worker".into(),
        ..NodeRegistration::default()
    };
    match text(data).parse::<Constraint>() {
        Ok(constraint) => drop((constraint.holds(NodeId::new(), &node), constraint.key.is_of_one_node())),
        Err(error) => short(&error),
    }
}

fn amounts(data: &[u8]) {
    let text = text(data);
    survives::<ByteSize>(text);
    survives::<Span>(text);
    survives::<CpuShare>(text);
    survives::<Portion>(text);
    survives::<Ratio>(text);
    json::<Portion>(data);
    json::<Ratio>(data);
    json::<CpuShare>(data);
    if let Ok(portion) = text.parse::<Portion>() {
        assert!(portion.of(10) >= 1);
    }
    if let Ok(ratio) = text.parse::<Ratio>() {
        assert!(ratio.share_of(1000) >= ratio.most_of(1000));
    }
}

fn words(data: &[u8]) {
    let text = text(data);
    survives::<AppName>(text);
    survives::<Digest>(text);
    survives::<InstanceId>(text);
    match ArtifactSource::try_from(text.to_owned()) {
        Ok(source) => assert_eq!(ArtifactSource::try_from(String::from(source.clone())), Ok(source)),
        Err(error) => short(&error),
    }
    if let Some(interface) = InterfaceName::parse(text) {
        drop(format!("{interface:?}"));
    }
    if let Err(error) = parse_label(text) {
        short(&error);
    }
}

fn images(data: &[u8]) {
    survives::<ImageReference>(text(data));
    match ImageDocument::parse(data) {
        Ok(document) => assert_eq!(ImageDocument::parse(&document.to_octets()).ok(), Some(document)),
        Err(error) => short(&error),
    }
}

fn archives(data: &[u8]) {
    let mut found = Vec::new();
    let contents = archive::read(data, |path, content| {
        assert!(!path.starts_with('/') && !path.split('/').any(|name| name == ".." || name.is_empty()));
        let mut octets = Vec::new();
        content.read_to_end(&mut octets)?;
        found.push((path.to_owned(), octets));
        Ok(())
    });
    let Ok(contents) = contents else { return };
    assert_eq!(contents.files, found.len() as u64);
    assert_eq!(contents.bytes, found.iter().map(|(_, octets)| octets.len() as u64).sum::<u64>());
    assert!(contents.bytes <= data.len() as u64, "an archive holds what it is made of");
}

fn assignments(data: &[u8]) {
    json::<Assignment>(data);
    json::<RouteTable>(data);
    if let Ok(Told::Delta(delta)) = Told::read(data) {
        let line = delta.line(None).expect("what was read can be written");
        let without_routes = AssignmentDelta { routes: None, ..(*delta).clone() };
        assert_eq!(Told::read(&line).ok(), Some(Told::Delta(Box::new(without_routes))));
    }
}

fn reports(data: &[u8]) {
    json::<NodeReport>(data);
    if let Some(registration) = json::<NodeRegistration>(data) {
        drop(registration.validate());
    }
    drop(serde_json::from_slice::<keyvalue::KeyValueRequest>(data));
}

fn log_records(data: &[u8]) {
    json::<LogRecord>(data);
    json::<Vec<LogRecord>>(data);
}

fn problems(data: &[u8]) {
    json::<Problem>(data);
}

fn exec_frames(data: &[u8]) {
    let mut decoder = Decoder::default();
    decoder.push(data);
    loop {
        match decoder.next_frame() {
            // A long sentence is cut when it is written.
            Ok(Some(Frame::Error(_))) => {}
            Ok(Some(frame)) => {
                let mut again = Decoder::default();
                again.push(&frame.encode());
                assert_eq!(again.next_frame(), Ok(Some(frame)));
            }
            Ok(None) => return,
            Err(error) => return short(&error),
        }
    }
}

fn secret_values(data: &[u8]) {
    match SecretValue::new(data.to_vec()) {
        Ok(value) => {
            assert_eq!(value.reveal().as_bytes(), data);
            let other = SecretValue::new(b"another".to_vec()).expect("that is a value");
            assert_eq!(format!("{value:?}"), format!("{other:?}"), "nothing of a value is shown");
        }
        Err(error) => short(&error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_comes_a_parser_keeps_its_word() {
        mutations::try_each(PARSERS, 3000);
    }

    #[test]
    fn the_archive_that_is_changed_is_one() {
        assert_eq!(archive::read(&ONE_FILE[..], |_, _| Ok(())).unwrap().files, 1);
    }
}
