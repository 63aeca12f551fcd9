//! What the ports that an image exposes mean for its app.
//!
//! `EXPOSE` in a Dockerfile says at which ports a container listens, and not what it speaks there. Where there is one port it is taken to answer
//! HTTP, unless it is known for something else: otherwise the app could be reached by nobody, without a word.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use serde_json::Value;
use wharf_types::spec::AppSpec;

/// What is read of an archive: the list of its images, and how one is to be run.
const DOCUMENT_MAX_BYTES: u64 = 4 << 20;

/// Those of TCP, of a list such as `80/tcp`.
pub fn tcp_ports(exposed: &[String]) -> Vec<u16> {
    let tcp = exposed.iter().filter_map(|port| match port.split_once('/') {
        Some((port, "tcp")) => port.parse().ok(),
        Some(_) => None,
        None => port.parse().ok(),
    });
    let mut ports: Vec<u16> = tcp.collect();
    ports.sort_unstable();
    ports
}

/// Of an archive that `docker save` has written. None: it cannot be told; whoever takes the archive says what is wrong with it.
pub fn in_archive(path: &Path) -> Option<Vec<u16>> {
    let manifest = document_in(path, "manifest.json")?;
    let config = document_in(path, manifest.get(0)?.get("Config")?.as_str()?)?;
    let exposed = config.get("config")?.get("ExposedPorts").and_then(Value::as_object);
    let exposed: Vec<String> = exposed.into_iter().flatten().map(|(port, _)| port.clone()).collect();
    Some(tcp_ports(&exposed))
}

/// A JSON document of an archive.
fn document_in(path: &Path, name: &str) -> Option<Value> {
    let mut archive = tar::Archive::new(File::open(path).ok()?);
    for entry in archive.entries_with_seek().ok()? {
        let entry = entry.ok()?;
        let is_it = {
            let path = entry.path_bytes();
            path.strip_prefix(b"./").unwrap_or(&path) == name.as_bytes()
        };
        if !is_it {
            continue;
        }
        let mut octets = Vec::new();
        entry.take(DOCUMENT_MAX_BYTES).read_to_end(&mut octets).ok()?;
        return serde_json::from_slice(&octets).ok();
    }
    None
}

/// What a port is known for, where that is not HTTP.
fn known_for(port: u16) -> Option<&'static str> {
    Some(match port {
        22 => "SSH",
        25 | 465 | 587 => "SMTP",
        53 => "DNS",
        110 | 995 => "POP3",
        143 | 993 => "IMAP",
        389 | 636 => "LDAP",
        1433 => "SQL Server",
        1521 => "Oracle",
        1883 | 8883 => "MQTT",
        2181 => "ZooKeeper",
        3306 | 33060 => "MySQL",
        4222 => "NATS",
        5432 => "PostgreSQL",
        5672 => "AMQP",
        6379 => "Redis",
        7687 => "Bolt",
        9042 => "Cassandra",
        9092 => "Kafka",
        11211 => "memcached",
        27017 => "MongoDB",
        _ => return None,
    })
}

const WAYS_OUT: &str = "`[container] http_port` in wharf.toml says where it answers HTTP";

/// Where the container answers HTTP, unless somebody has said it; returns what is to be told of it.
pub fn settle_http_port(spec: &mut AppSpec, exposed: &[u16]) -> Option<String> {
    let listed = || exposed.iter().map(u16::to_string).collect::<Vec<_>>().join(", ");
    match (spec.container.http_port, exposed) {
        (Some(_), []) => None,
        (Some(port), _) if exposed.contains(&port) => None,
        (Some(port), _) => Some(format!(
            "it is asked at port {port}, which the image does not expose; it exposes {}",
            listed()
        )),
        (None, _) if !spec.tcp.ports.is_empty() => None,
        (None, [port]) => match known_for(*port) {
            Some(protocol) => Some(format!(
                "it gets no requests, as the image exposes {port} only, which is {protocol}'s: other containers of the namespace reach it by the \
                 app's name, and `tcp.ports` opens it to others; {WAYS_OUT}"
            )),
            None => {
                spec.container.http_port = Some(*port);
                Some(format!("port {port} answers HTTP, as the image exposes no other; {WAYS_OUT}"))
            }
        },
        (None, []) => Some(format!("it gets no requests, as the image exposes no port; {WAYS_OUT}")),
        (None, _) => Some(format!("it gets no requests, as the image exposes {}; {WAYS_OUT}", listed())),
    }
}

/// What is to be told where nobody here knows yet what the image exposes.
pub fn untold(spec: &AppSpec) -> Option<String> {
    let is_reached = spec.container.http_port.is_some() || !spec.tcp.ports.is_empty();
    (!is_reached).then(|| {
        format!(
            "it gets no requests: what the image exposes is not known before a node has pulled it; {WAYS_OUT}"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_only_port_that_an_image_exposes_answers_http() {
        let mut spec = AppSpec::default();
        let told = settle_http_port(&mut spec, &[8000]).unwrap();
        assert!(told.contains("port 8000 answers HTTP"), "{told}");
        assert_eq!(spec.container.http_port, Some(8000));
        assert_eq!(settle_http_port(&mut spec, &[8000, 9000]), None);
        assert_eq!(settle_http_port(&mut spec, &[]), None);
        assert!(settle_http_port(&mut spec, &[9000]).unwrap().contains("exposes 9000"));
        assert_eq!(spec.container.http_port, Some(8000), "what was said stays");
        assert_eq!(untold(&spec), None);
    }

    #[test]
    fn of_several_ports_or_none_a_user_chooses() {
        let mut spec = AppSpec::default();
        assert!(settle_http_port(&mut spec, &[80, 443]).unwrap().contains("exposes 80, 443; `[container]"));
        assert!(settle_http_port(&mut spec, &[]).unwrap().contains("exposes no port"));
        assert!(untold(&spec).unwrap().contains("http_port"));
        spec.tcp.ports = vec![6379];
        assert_eq!(settle_http_port(&mut spec, &[6379]), None, "that one is for connections");
        assert_eq!((spec.container.http_port, untold(&spec)), (None, None));
    }

    #[test]
    fn a_port_that_is_known_for_something_else_answers_no_http() {
        let mut spec = AppSpec::default();
        let told = settle_http_port(&mut spec, &[6379]).unwrap();
        assert!(told.contains("Redis") && told.contains("`tcp.ports`"), "{told}");
        assert_eq!(spec.container.http_port, None);
    }

    #[test]
    fn ports_of_other_protocols_are_none() {
        let exposed = ["80/tcp", "53/udp", "8080", "x/tcp"].map(str::to_owned);
        assert_eq!(tcp_ports(&exposed), [80, 8080]);
    }

    #[test]
    fn an_archive_says_what_its_image_exposes() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let write = |files: &[(&str, &str)]| {
            let mut archive = tar::Builder::new(File::create(file.path()).unwrap());
            for (name, text) in files {
                let mut header = tar::Header::new_gnu();
                header.set_size(text.len() as u64);
                archive.append_data(&mut header, name, text.as_bytes()).unwrap();
            }
            archive.finish().unwrap();
            in_archive(file.path())
        };
        let manifest = ("manifest.json", r#"[{"Config":"blobs/sha256/ab","Layers":[]}]"#);
        let config = |text| ("blobs/sha256/ab", text);
        let exposed = config(r#"{"config":{"ExposedPorts":{"80/tcp":{},"53/udp":{}}}}"#);
        assert_eq!(write(&[exposed, manifest]), Some(vec![80]));
        assert_eq!(write(&[manifest, config(r#"{"config":{}}"#)]), Some(Vec::new()));
        assert_eq!(write(&[manifest]), None);
        assert_eq!(write(&[("manifest.json", "[]")]), None);
        assert_eq!(in_archive(Path::new("/nowhere")), None);
    }
}
