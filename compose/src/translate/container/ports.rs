//! The ports of a container: the one that is asked for pages, and those that are public as they are.

use std::collections::BTreeMap;

use wharf_types::spec::{PORT_MIN, TcpSpec};

use crate::model::Port;
use crate::problem::shown;
use crate::translate::One;
use crate::translate::common::{published, refuse_address};
use crate::translate::sink::Sink;

/// Where HTTP is what most services speak.
const OF_HTTP: [u16; 4] = [3000, 5000, 8000, 8080];

#[derive(Default)]
pub(super) struct Ports {
    pub(super) http_port: Option<u16>,
    pub(super) tcp: TcpSpec,
    /// Which port of the container is behind a public one, where that has another number.
    pub(super) own: BTreeMap<u16, u16>,
}

pub(super) fn ports(one: &One<'_>, sink: &mut Sink) -> Ports {
    let tcp = one.wharf("tcp", sink).unwrap_or_default();
    let mut made = Ports { tcp, ..Ports::default() };
    let wharf = &one.settings.wharf;
    let takes_requests = wharf.contains_key("http");
    for (index, port) in one.settings.ports.iter().enumerate() {
        let place = one.item("ports", index).clone();
        if port.protocol != "tcp" {
            let message = format!(
                "`{}`: only TCP is public here; inside their networks containers reach each other by any protocol, so leave it out",
                port.protocol
            );
            sink.problem(&place, message);
            continue;
        }
        if let Err(message) = refuse_address(port) {
            sink.problem(&place, message);
        }
        if takes_requests && made.http_port.is_none() {
            made.http_port = Some(port.target);
            let message = format!(
                "requests come through the front door, by hostname, to the container's port {}; nothing is open for them at {}",
                port.target,
                port.published.as_deref().map_or_else(|| "a port of its own".to_owned(), shown)
            );
            sink.notice(&place, message);
            continue;
        }
        if port.published.is_none() {
            let message = format!(
                "the port {0} is reached within the service's networks only; publish it as `7000:{0}` for others",
                port.target
            );
            sink.notice(&place, message);
            continue;
        }
        match public(one, port) {
            Ok(public) => {
                let told = told(port, public, wharf.is_empty());
                told.into_iter().for_each(|message| sink.notice(&place, message));
                if !made.tcp.ports.contains(&public) {
                    made.tcp.ports.push(public);
                }
                if public != port.target {
                    made.own.insert(public, port.target);
                }
            }
            Err(message) => sink.problem(&place, message),
        }
    }
    if takes_requests && made.http_port.is_none() {
        let message =
            "it needs the port that takes requests, as the first of `ports`, such as `ports: [\"80\"]`";
        sink.problem(one.place("x-wharf.http"), format!("`http`: {message}"));
    }
    made
}

fn public(one: &One<'_>, port: &Port) -> Result<u16, String> {
    let public = published(port)?;
    if one.settings.network_mode.as_deref() == Some("host") {
        return Err(
            "the container has the network of its node, and its ports with it; leave `ports` out".to_owned()
        );
    }
    if public < PORT_MIN {
        return Err(format!(
            "the port {public} is below {PORT_MIN}, where only the machine's own services are. If {0} takes HTTP requests, \
             write `x-wharf: {{http: {{}}}}`, and they come by hostname; otherwise publish a higher one, such as `{1}:{0}`",
            port.target,
            10_000 + public
        ));
    }
    Ok(public)
}

/// What is to be said of a public port. `is_bare`: nothing says what the service speaks.
fn told(port: &Port, public: u16, is_bare: bool) -> Vec<String> {
    let Port { name: _, mode, host_ip: _, target, published: _, protocol: _, app_protocol } = port;
    let mut told = Vec::new();
    if is_bare && (OF_HTTP.contains(&public) || matches!(target, 80 | 443) || OF_HTTP.contains(target)) {
        told.push(format!(
            "the port {public} is open for connections, which are passed on as they are; if {target} takes HTTP requests, \
             `x-wharf: {{http: {{}}}}` lets them come by hostname"
        ));
    }
    if mode == "host" {
        told.push(format!("the port {public} is public at every front door"));
    }
    if let Some(protocol) = app_protocol {
        told.push(format!(
            "`{}`: connections are passed on as they are, whatever they speak",
            shown(protocol)
        ));
    }
    told
}
