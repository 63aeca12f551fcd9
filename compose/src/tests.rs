//! The rule above all: a key that is in a file changes what comes of it, or is said. Asked of every key in the table.

use std::collections::BTreeMap;
use std::io;

use serde_json::{Value, json};

use crate::keys::{self, Key, Kind, Support};
use crate::translate::{Context, translate};
use crate::{Reader, Variables, load};

struct Files(BTreeMap<&'static str, String>);

impl Reader for Files {
    fn read(&self, path: &str) -> io::Result<Vec<u8>> {
        self.0.get(path).map(|text| text.clone().into_bytes()).ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

/// All that comes of a project, with everything that is said.
fn outcome(document: &Value, profiles: &[String]) -> String {
    let text = serde_json::to_string_pretty(document).unwrap();
    let files = Files(
        [
            ("c.yml", text),
            ("e.env", "E=1\n".into()),
            ("r.env", "R='1'\n".into()),
            ("sub/i.yml", "services: {i: {image: i}}".into()),
            (
                "sub/t.yml",
                "services: {other: {image: e, hostname: e}, t2: {image: '${E:-none}', volumes: ['./d:/d']}}"
                    .into(),
            ),
        ]
        .into(),
    );
    let project = match load(&["c.yml".to_owned()], profiles, &Variables::new(), &files) {
        Ok(project) => project,
        Err(problems) => return format!("refused: {problems}"),
    };
    let name = format!("{:?}", project.name);
    let said: Vec<&str> = project.notices.iter().map(|notice| notice.message.as_str()).collect();
    match translate(&project, &Context::default()) {
        Err(problems) => {
            let messages: Vec<&str> = problems.iter().map(|problem| problem.message.as_str()).collect();
            format!("refused: {messages:?} {said:?}")
        }
        Ok(made) => {
            let apps: Vec<_> = made.apps.iter().map(|app| &app.document).collect();
            let notices: Vec<&str> = made.notices.iter().map(|notice| notice.message.as_str()).collect();
            let values: Vec<_> =
                made.secrets.iter().chain(&made.configs).map(|value| (&value.name, &value.from)).collect();
            format!("{name} {apps:#?} {values:?} {:?} {notices:?} {said:?}", made.order)
        }
    }
}

/// A value of the key's kind that is not the default.
fn sample(key: &Key) -> Value {
    let last = key.path.rsplit('.').next().unwrap_or_default();
    match (key.path, last) {
        ("services.*.platform", _) => return json!("linux/arm64"),
        ("services.*.restart", _) => return json!("on-failure:3"),
        ("services.*.pull_policy", _) => return json!("always"),
        ("services.*.deploy.placement.constraints", _) => return json!(["node.labels.a == b"]),
        ("services.*.deploy.placement.preferences.*.spread", _) => return json!("node.labels.a"),
        ("services.*.deploy.mode", _) => return json!("global"),
        ("services.*.deploy.restart_policy.condition", _) => return json!("none"),
        ("services.*.deploy.update_config.failure_action", _) => return json!("pause"),
        ("services.*.links" | "services.*.volumes_from", _) => return json!(["other"]),
        ("services.*.volumes.*.type", _) => return json!("bind"),
        ("services.*.network_mode", _) => return json!("host"),
        ("services.*.ports.*.mode", _) => return json!("host"),
        ("services.*.ports.*.protocol", _) => return json!("udp"),
        ("services.*.ports.*.host_ip", _) => return json!("127.0.0.1"),
        ("services.*.ports.*.published", _) => return json!("8080"),
        ("services.*.env_file.*.path", _) | ("services.*.label_file", _) => return json!("e.env"),
        ("services.*.env_file.*.format", _) => return json!("raw"),
        ("services.*.extends.service", _) => return json!("other"),
        ("services.*.extends.file", _) => return json!("sub/i.yml"),
        ("services.*.profiles", _) => return json!(["debug"]),
        ("services.*.depends_on.*.required" | "services.*.env_file.*.required", _) => return json!(false),
        ("services.*.depends_on.*.condition", _) => return json!("service_healthy"),
        ("services.*.healthcheck.test", _) => return json!(["CMD", "curl", "http://localhost/h"]),
        ("services.*.secrets.*.source" | "services.*.build.secrets.*.source", _) => return json!("c2"),
        ("services.*.configs.*.source", _) => return json!("d2"),
        ("services.*.volumes.*.source", _) => return json!("w"),
        ("services.*.x-wharf.scale", _) => return json!({"min": 1, "max": 4, "concurrency": 3}),
        ("services.*.x-wharf.http", _) => return json!({"routes": ["a.example.com"]}),
        ("services.*.x-wharf.tcp", _) => return json!({"ports": [7000]}),
        ("services.*.x-wharf.limits", _) => return json!({"concurrency": 3}),
        ("services.*.x-wharf.outbound", _) => return json!({"allow": ["https://example.com"]}),
        ("services.*.x-wharf.reuse", _) => return json!({"mode": "serial"}),
        ("services.*.x-wharf.engine", _) => return json!({"profile": "long"}),
        ("volumes.*.x-wharf.size", _) => return json!("2GiB"),
        ("include.*.path", _) => return json!(["sub/i.yml"]),
        ("include.*.env_file", _) => return json!(["e.env"]),
        ("include.*.project_directory", _) => return json!("."),
        (_, "target" | "mount") => return json!("/t"),
        _ => {}
    }
    match key.kind {
        Kind::Table | Kind::Named | Kind::List => json!({}),
        Kind::Text => json!("text"),
        Kind::Texts | Kind::Words => json!(["text"]),
        Kind::Pairs | Kind::TextTable => json!({"a": "b"}),
        Kind::Bool => json!(true),
        Kind::Int => json!(7),
        Kind::Number => json!(0.25),
        Kind::Duration => json!("7s"),
        Kind::Size | Kind::SizeOrNone => json!("7m"),
        Kind::Mode => json!("0777"),
        Kind::Word(words) => json!(words.last().unwrap()),
        Kind::Any => json!({"a": 1}),
    }
}

/// What a table needs beside the key that is asked about.
fn beside(path: &str) -> Value {
    match path {
        "services.*.ports.*" => json!({"target": 80}),
        "services.*.volumes.*" => json!({"type": "volume", "source": "v", "target": "/v"}),
        "services.*.depends_on.*" => json!({"condition": "service_started"}),
        "services.*.devices.*" => json!({"source": "/dev/a"}),
        "services.*.env_file.*" => json!({"path": "r.env"}),
        "services.*.extends" => json!({"service": "t"}),
        "services.*.healthcheck" => json!({"test": "curl http://localhost/"}),
        "include.*" => json!({"path": "sub/t.yml"}),
        "secrets.*" | "configs.*" => json!({"file": "f"}),
        "models.*" => json!({"model": "m"}),
        "services.*.x-wharf" | "services.*.deploy" => json!({}),
        path if path.ends_with("ulimits.*") => json!({"soft": 1, "hard": 2}),
        path if path.ends_with("secrets.*") => json!({"source": "c", "target": "s"}),
        path if path.ends_with("configs.*") => json!({"source": "d", "target": "/s"}),
        path if path.contains("blkio_config.") && path.ends_with('*') => {
            let amount = if path.contains("weight") { "weight" } else { "rate" };
            json!({"path": "/dev/a", amount: 1})
        }
        path if path.ends_with("post_start.*") || path.ends_with("pre_stop.*") => json!({"command": ["x"]}),
        path if path.ends_with("watch.*") => json!({"path": ".", "action": "sync"}),
        _ => json!({}),
    }
}

/// A name in place of a `*`.
fn name_at(path: &str) -> Option<&'static str> {
    Some(match path {
        "services" => "s",
        "networks" | "services.*.networks" => "n",
        "volumes" => "v",
        "secrets" => "c",
        "configs" => "d",
        "models" | "services.*.models" => "m",
        "services.*.depends_on" => "other",
        path if path.ends_with("ulimits") => "nofile",
        path if path.ends_with("extra_hosts") => "host",
        _ => return None,
    })
}

/// Puts a value at a path, with what each table on the way needs; None puts the tables only.
fn put(document: &mut Value, path: &str, value: Option<Value>) {
    let parts: Vec<&str> = path.split('.').collect();
    let mut at = document;
    for depth in 0..parts.len() {
        let so_far = parts[..depth].join(".");
        let is_last = depth + 1 == parts.len();
        let here = parts[..=depth].join(".");
        at = match (parts[depth], name_at(&so_far)) {
            ("*", None) => {
                if !at.is_array() {
                    *at = json!([beside(&here)]);
                }
                &mut at[0]
            }
            (part, name) => {
                let part = if part == "*" { name.unwrap() } else { part };
                if is_last && value.is_none() {
                    at.as_object_mut().into_iter().for_each(|table| drop(table.remove(part)));
                    let beside = beside(&so_far);
                    if let (Some(table), Some(needed)) = (at.as_object_mut(), beside.get(part)) {
                        table.insert(part.to_owned(), needed.clone());
                    }
                    return;
                }
                if !at.is_object() {
                    *at = json!({});
                }
                let table = at.as_object_mut().unwrap();
                let needed = beside(&here);
                let entry = table.entry(part.to_owned()).or_insert_with(|| json!({}));
                if let (Some(entry), Value::Object(needed)) = (entry.as_object_mut(), needed) {
                    let is_external = value.is_some() && path.contains(".external");
                    let replaces = is_last
                        || path.ends_with(".environment")
                        || path.ends_with(".content")
                        || is_external;
                    for (key, needed) in needed.into_iter().filter(|(key, _)| !replaces || key != "file") {
                        entry.entry(key).or_insert(needed);
                    }
                }
                entry
            }
        };
    }
    if let Some(value) = value {
        *at = value;
    }
}

fn base(image: &str) -> Value {
    json!({
        "services": {"s": {"image": image}, "other": {"image": "o", "hostname": "o"}, "t": {"image": "t"}},
        "networks": {"n": {}},
        "volumes": {"v": {}, "w": {}},
        "secrets": {"c": {"file": "f"}, "c2": {"file": "f"}},
        "configs": {"d": {"file": "f"}, "d2": {"file": "f"}},
    })
}

#[test]
fn no_key_is_passed_over() {
    let mut silent = Vec::new();
    for key in keys::all().filter(|key| !matches!(key.kind, Kind::Table | Kind::Named | Kind::List)) {
        for image in ["nginx", "a.wasm"] {
            let (mut with, mut without) = (base(image), base(image));
            for document in [&mut with, &mut without] {
                // A volume is only looked at where somebody has it.
                if key.path.starts_with("volumes.*") {
                    document["services"]["s"]["volumes"] = json!(["v:/v"]);
                }
                if key.path.starts_with("networks.*") {
                    document["services"]["s"]["networks"] = json!(["n"]);
                }
                if key.path.starts_with("services.*.ports") {
                    document["services"]["s"]["x-wharf"] = json!({"tcp": {}});
                    put(document, "services.*.ports.*.published", Some(json!("7000")));
                }
                if key.path == "services.*.env_file.*.required" {
                    put(document, "services.*.env_file.*.path", Some(json!("missing.env")));
                }
                if key.path.contains(".volumes.*.tmpfs") && image == "nginx" {
                    document["services"]["s"]["volumes"] = json!([{"type": "tmpfs", "target": "/v"}]);
                }
                if key.path.contains(".volumes.*.bind") {
                    put(document, "services.*.volumes.*.type", Some(json!("bind")));
                    put(
                        document,
                        "services.*.volumes.*.source",
                        Some(json!(if image == "nginx" { "/x" } else { "./x" })),
                    );
                    put(document, "services.*.volumes.*.read_only", Some(json!(true)));
                }
            }
            put(&mut with, key.path, Some(sample(key)));
            put(&mut without, key.path, None);
            let outcomes = (outcome(&with, &[]), outcome(&without, &[]));
            let of = |key: &Key| if image == "nginx" { key.container } else { key.app };
            let is_said = match keys::support(key, of) {
                Support::Honoured => outcomes.0 != outcomes.1,
                Support::Translated(words) => outcomes.0.contains(words),
                Support::Refused(words) => outcomes.0.starts_with("refused") && !words.is_empty(),
            };
            if !is_said {
                silent.push(format!("{} of {image}: {}", key.path, &outcomes.0[..outcomes.0.len().min(300)]));
            }
        }
    }
    assert!(silent.is_empty(), "these change nothing, and nothing is said of them: {silent:#?}");
}

#[test]
fn an_empty_key_is_no_key() {
    let mut document = base("nginx");
    let service = document["services"]["s"].as_object_mut().unwrap();
    for key in ["privileged", "cap_add", "labels", "ports", "deploy", "command"] {
        service.insert(key.to_owned(), Value::Null);
    }
    assert_eq!(outcome(&document, &[]), outcome(&base("nginx"), &[]));
}
