//! The metrics of the platform: what the workers have reported last, for Prometheus.
//!
//! Nothing is counted here. Workers count, and report totals since they started; this page is a view of the newest reports, and of the
//! jobs in the store, so it costs nothing while nobody reads it. Its guide is `docs/guide/metrics.md`.

mod text;

use wharf_types::NamespaceName;
use wharf_types::figures::{AppLoad, FrontDoorFigures, NodeFigures, VolumeFigures};
use wharf_types::job::JobState;
use wharf_types::node::AppUsage;

use self::text::Kind::{self, Counter, Gauge};
use self::text::Value::{self, Millis, Whole};
use self::text::{Exposition, Metric};
use crate::nodes::NodeSample;

pub(crate) use self::text::CONTENT_TYPE;

/// Kind, name and help of a metric, and how it is read from `T`.
type Row<T> = (Kind, &'static str, &'static str, fn(&T) -> Value);

/// Of each release on each node.
const APPS: &[Row<AppUsage>] = &[
    (
        Counter,
        "wharf_app_invocations_total",
        "Requests that a guest was given, with health checks, and runs of commands.",
        |app| Whole(app.invocations),
    ),
    (Counter, "wharf_app_traps_total", "Invocations that ended because the guest trapped.", |app| {
        Whole(app.traps)
    }),
    (
        Counter,
        "wharf_app_limited_total",
        "Invocations that ended at a limit of time or of CPU time.",
        |app| Whole(app.limited),
    ),
    (
        Counter,
        "wharf_app_refused_total",
        "Requests that found every place taken, and none free in time.",
        |app| Whole(app.refused),
    ),
    (Counter, "wharf_app_cpu_seconds_total", "CPU time of guests.", |app| Millis(app.cpu_millis)),
    (Counter, "wharf_app_received_bytes_total", "Request bodies, as far as guests have read them.", |app| {
        Whole(app.received_bytes)
    }),
    (Counter, "wharf_app_sent_bytes_total", "Response bodies of guests.", |app| Whole(app.sent_bytes)),
    (Gauge, "wharf_app_memory_bytes", "Memory of the guests that live now.", |app| Whole(app.memory_bytes)),
    (Gauge, "wharf_app_active_invocations", "Invocations under way.", |app| Whole(app.active)),
];

/// Of each node.
const NODES: &[Row<NodeFigures>] = &[
    (Gauge, "wharf_stores", "Places for guest stores that are taken.", |node| Whole(node.stores.used)),
    (Gauge, "wharf_stores_max", "Places for guest stores.", |node| Whole(node.stores.max)),
    (Gauge, "wharf_stores_idle", "Stores that wait for their next request.", |node| Whole(node.idle_stores)),
    (Counter, "wharf_stores_refused_total", "Guests that got no place for their store in time.", |node| {
        Whole(node.stores_refused)
    }),
    (Gauge, "wharf_guest_memory_bytes", "Memory of all guests.", |node| Whole(node.memory_bytes.used)),
    (Gauge, "wharf_guest_memory_max_bytes", "Memory that all guests together may have.", |node| {
        Whole(node.memory_bytes.max)
    }),
    (
        Counter,
        "wharf_guest_memory_refused_total",
        "Growths of a memory that were refused because of what others use, or the same app.",
        |node| Whole(node.memory_refused),
    ),
    (Gauge, "wharf_pool_kept_bytes", "Memory that is kept for the next guests.", |node| {
        Whole(node.pool_kept_bytes)
    }),
    (Gauge, "wharf_artifacts_loaded", "Compiled artifacts that instances have loaded.", |node| {
        Whole(node.artifacts)
    }),
    (Gauge, "wharf_outbound_connections", "HTTP connections of guests to other servers.", |node| {
        Whole(node.outbound_connections.used)
    }),
    (Gauge, "wharf_outbound_connections_max", "The most of them that there may be.", |node| {
        Whole(node.outbound_connections.max)
    }),
    (Gauge, "wharf_datagram_flows", "Flows of datagrams of containers to apps by name.", |node| {
        Whole(node.datagrams.flows)
    }),
    (Counter, "wharf_datagrams_total", "Datagrams in them, both ways.", |node| Whole(node.datagrams.passed)),
    (
        Counter,
        "wharf_datagrams_dropped_total",
        "Datagrams by name that were dropped: there was no room, or they lead nowhere.",
        |node| Whole(node.datagrams.dropped.saturating_add(node.front_door.peers.datagrams_dropped)),
    ),
];

/// Of each volume.
const VOLUMES: &[Row<VolumeFigures>] = &[
    (Gauge, "wharf_volume_used_bytes", "What the volume holds, each file with 4 KiB for itself.", |volume| {
        Whole(volume.used_bytes)
    }),
    (Gauge, "wharf_volume_size_bytes", "What the volume may hold.", |volume| Whole(volume.size_bytes)),
    (
        Gauge,
        "wharf_volume_full",
        "1 if a guest was refused room and nothing was deleted since, else 0.",
        |volume| Whole(volume.full.into()),
    ),
];

/// Of each app that scales by its open requests.
const LOADS: &[Row<AppLoad>] = &[
    (
        Gauge,
        "wharf_app_open_requests",
        "Open requests on the mean of half a second; apps that scale by them.",
        |load| Millis(load.open_thousandths),
    ),
    (Gauge, "wharf_app_waiting_requests", "Requests that wait for the app to wake.", |load| {
        Whole(load.waiting)
    }),
];

/// Of each node's ingress.
const FRONT_DOORS: &[Row<FrontDoorFigures>] = &[
    (Gauge, "wharf_ingress_open_connections", "Connections that are open.", |door| {
        Whole(door.open_connections)
    }),
    (Gauge, "wharf_ingress_open_requests", "Requests under way.", |door| Whole(door.open_requests)),
    (Counter, "wharf_ingress_connections_total", "Connections that were accepted.", |door| {
        Whole(door.connections)
    }),
    (
        Counter,
        "wharf_ingress_connections_refused_total",
        "Connections that were closed at once, because as many as allowed were open.",
        |door| Whole(door.connections_refused),
    ),
    (
        Counter,
        "wharf_ingress_connections_cut_total",
        "Connections that were closed because the client was too slow.",
        |door| Whole(door.connections_cut),
    ),
    (Counter, "wharf_ingress_accept_errors_total", "Connections that could not be accepted.", |door| {
        Whole(door.accept_errors)
    }),
    (Counter, "wharf_ingress_requests_total", "Requests.", |door| Whole(door.requests)),
    (Counter, "wharf_ingress_clients_gone_total", "Requests whose client left before the answer.", |door| {
        Whole(door.clients_gone)
    }),
    (Gauge, "wharf_ingress_peer_connections", "Connections to ingresses of other nodes.", |door| {
        Whole(door.peers.open_connections)
    }),
    (
        Gauge,
        "wharf_ingress_peers_ejected",
        "Nodes that get nothing new, because they do not answer.",
        |door| Whole(door.peers.ejected),
    ),
    (Counter, "wharf_ingress_peer_connections_total", "Connections that were made to other nodes.", |door| {
        Whole(door.peers.connections)
    }),
    (Counter, "wharf_ingress_peer_ejections_total", "Times that a node was found not to answer.", |door| {
        Whole(door.peers.ejections)
    }),
    (
        Counter,
        "wharf_ingress_peer_requests_total",
        "Requests, and connections to TCP ports, that were sent to other nodes.",
        |door| Whole(door.peers.requests),
    ),
    (
        Counter,
        "wharf_ingress_peer_unreachable_total",
        "Those that could not be sent, so that another instance was asked.",
        |door| Whole(door.peers.unreachable),
    ),
    (
        Counter,
        "wharf_ingress_peer_lost_total",
        "Those that were sent, and of which nothing was heard any more.",
        |door| Whole(door.peers.lost),
    ),
    (
        Counter,
        "wharf_ingress_peer_retried_total",
        "Requests that another instance was asked for after one of another node had not taken them.",
        |door| Whole(door.peers.retried),
    ),
    (
        Counter,
        "wharf_ingress_peer_served_total",
        "Requests, and connections to TCP ports, that came from other nodes.",
        |door| Whole(door.peers.served),
    ),
];

/// The page. Of a node that is given up only that is said: what it has reported last is no longer true.
pub(crate) fn page(nodes: &[NodeSample], jobs: &[(NamespaceName, JobState, u64)]) -> String {
    let mut page = Exposition::default();
    let build = [("version", env!("CARGO_PKG_VERSION"))];
    page.metric(Gauge, "wharf_build_info", "The control plane; always 1.").sample(&build, Whole(1));

    let mut info = page.metric(Gauge, "wharf_node_info", "The nodes that are known; always 1.");
    each(nodes, |id, node| {
        let about = &node.status.registration;
        let labels = [("node", id), ("hostname", &about.hostname), ("version", &about.version)];
        info.sample(&labels, Whole(1));
    });
    let mut ready = page.metric(Gauge, "wharf_node_ready", "1 if the node reports in time, else 0.");
    each(nodes, |id, node| ready.sample(&[("node", id)], Whole(node.status.is_there().into())));

    let alive: Vec<&NodeSample> = nodes.iter().filter(|node| !node.status.given_up).collect();
    rows(&mut page, NODES, |metric, read| {
        each(alive.iter().copied(), |id, node| metric.sample(&[("node", id)], read(&node.figures)));
    });
    rows(&mut page, FRONT_DOORS, |metric, read| {
        each(alive.iter().copied(), |id, node| {
            metric.sample(&[("node", id)], read(&node.figures.front_door))
        });
    });
    let mut errors = page.metric(
        Counter,
        "wharf_ingress_errors_total",
        "Requests that the ingress answered itself, by code.",
    );
    each(alive.iter().copied(), |id, node| {
        for (code, count) in &node.figures.front_door.errors {
            errors.sample(&[("node", id), ("code", code)], Whole(*count));
        }
    });
    rows(&mut page, VOLUMES, |metric, read| {
        each(alive.iter().copied(), |id, node| {
            for volume in &node.figures.volumes {
                let labels = [
                    ("namespace", volume.namespace.as_str()),
                    ("app", volume.app.as_str()),
                    ("volume", volume.name.as_str()),
                    ("node", id),
                ];
                metric.sample(&labels, read(volume));
            }
        });
    });
    rows(&mut page, APPS, |metric, read| {
        each(alive.iter().copied(), |id, node| {
            for usage in &node.usage {
                let release = usage.release.to_string();
                let labels = [
                    ("namespace", usage.namespace.as_str()),
                    ("app", usage.app.as_str()),
                    ("release", &release),
                    ("node", id),
                ];
                metric.sample(&labels, read(usage));
            }
        });
    });
    rows(&mut page, LOADS, |metric, read| {
        each(alive.iter().copied(), |id, node| {
            for load in &node.figures.front_door.loads {
                let labels =
                    [("namespace", load.namespace.as_str()), ("app", load.app.as_str()), ("node", id)];
                metric.sample(&labels, read(load));
            }
        });
    });
    let mut by_state = page.metric(Gauge, "wharf_jobs", "Jobs that are kept, by state.");
    for (namespace, state, count) in jobs {
        let labels = [("namespace", namespace.as_str()), ("state", state.as_str())];
        by_state.sample(&labels, Whole(*count));
    }
    page.into_text()
}

fn rows<T>(page: &mut Exposition, rows: &[Row<T>], samples: impl Fn(&mut Metric<'_>, fn(&T) -> Value)) {
    for (kind, name, help, read) in rows {
        samples(&mut page.metric(*kind, name, help), *read);
    }
}

fn each<'a>(nodes: impl IntoIterator<Item = &'a NodeSample>, mut act: impl FnMut(&str, &NodeSample)) {
    for node in nodes {
        act(&node.status.id.to_string(), node);
    }
}

#[cfg(test)]
mod tests {
    use wharf_types::NodeId;
    use wharf_types::figures::Share;
    use wharf_types::node::NodeRegistration;

    use super::*;
    use crate::nodes::NodeStatus;

    fn node(hostname: &str, given_up: bool) -> NodeSample {
        let registration = NodeRegistration {
            hostname: hostname.into(),
            memory_bytes: 1,
            cpus: 1,
            version: "1.2".into(),
            ..NodeRegistration::default()
        };
        let status = NodeStatus {
            ready: !given_up,
            takes_more: !given_up,
            given_up,
            released: given_up,
            ..NodeStatus::ready(NodeId::from_uuid(uuid::Uuid::nil()), registration)
        };
        let usage = AppUsage {
            traps: 2,
            cpu_millis: 1500,
            ..AppUsage::new("default".parse().unwrap(), "hello".parse().unwrap(), 3)
        };
        let mut figures = NodeFigures { stores: Share { used: 5, max: 1000 }, ..NodeFigures::default() };
        figures.front_door.errors.insert("busy".into(), 4);
        (figures.datagrams.dropped, figures.front_door.peers.datagrams_dropped) = (2, 3);
        NodeSample { status, usage: vec![usage], figures }
    }

    fn lines(page: &str, part: &str) -> Vec<String> {
        page.lines().filter(|line| !line.starts_with('#') && line.contains(part)).map(str::to_owned).collect()
    }

    #[test]
    fn releases_nodes_and_front_doors_are_told_apart_by_labels() {
        let jobs = [("default".parse().unwrap(), JobState::Failed, 2)];
        let page = page(&[node("laptop", false)], &jobs);
        const NODE: &str = "node=\"00000000-0000-0000-0000-000000000000\"";
        let app = format!("{{namespace=\"default\",app=\"hello\",release=\"3\",{NODE}}}");
        for line in [
            format!("wharf_app_cpu_seconds_total{app} 1.500"),
            format!("wharf_app_traps_total{app} 2"),
            format!("wharf_app_memory_bytes{app} 0"),
            "wharf_jobs{namespace=\"default\",state=\"failed\"} 2".to_owned(),
            format!("wharf_stores{{{NODE}}} 5"),
            format!("wharf_stores_max{{{NODE}}} 1000"),
            format!("wharf_datagrams_dropped_total{{{NODE}}} 5"),
            format!("wharf_ingress_errors_total{{{NODE},code=\"busy\"}} 4"),
            format!("wharf_node_info{{{NODE},hostname=\"laptop\",version=\"1.2\"}} 1"),
        ] {
            assert!(page.lines().any(|found| found == line), "{line} is not in\n{page}");
        }
    }

    #[test]
    fn of_a_node_that_is_given_up_only_that_is_left() {
        let page = page(&[node("dead", true)], &[]);
        assert_eq!(lines(&page, "node=").len(), 2, "{page}");
        assert_eq!(lines(&page, "wharf_node_ready{")[0].split(' ').next_back(), Some("0"));
    }

    #[test]
    fn names_follow_the_conventions_and_are_each_used_once() {
        let page = page(&[], &[]);
        let mut names: Vec<&str> = Vec::new();
        for line in page.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
            let (name, kind) = line.split_once(' ').unwrap();
            assert!(name.starts_with("wharf_") && !name.contains("__"), "{name}");
            assert_eq!(name.ends_with("_total"), kind == "counter", "{name}");
            assert!(!names.contains(&name), "{name} twice");
            names.push(name);
        }
        let guide = include_str!("../../docs/guide/metrics.md");
        for name in names {
            assert!(guide.contains(&format!("`{name}`")), "{name} is not in the guide");
        }
    }
}
