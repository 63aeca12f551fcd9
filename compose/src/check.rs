//! What must hold of a project as a whole: names lead to something, nothing waits for itself, no two services publish one port.

use std::collections::{BTreeMap, BTreeSet};

use wharf_types::suggest::nearest;

use crate::faulty::Faulty;
use crate::keys::{Support, root};
use crate::node::{Entry, Node, Place};
use crate::problem::{Notice, Problem, shown};
use crate::short::port_range;

/// Writes down what the specification says of what is left out: a service without networks is in `default`.
pub(crate) fn complete(tree: &mut Node) {
    let place = tree.place.clone();
    let mut needs_default = false;
    let services = tree.table_mut().and_then(|table| table.get_mut("services"));
    for (_, entry) in services.and_then(|entry| entry.node.table_mut()).into_iter().flatten() {
        let service = &mut entry.node;
        let has_none = service.get("networks").is_none_or(|networks| networks.entries().next().is_none());
        if has_none && service.get("network_mode").is_none() {
            let at = service.place.clone();
            service.set("networks", Node::table_at(&at, [("default", Node::empty_table(&at))]));
        }
        needs_default |= service.get("networks").is_some_and(|networks| networks.get("default").is_some());
    }
    if !needs_default {
        return;
    }
    if tree.get("networks").is_none() {
        tree.set("networks", Node::empty_table(&place));
    }
    let networks = tree.table_mut().and_then(|table| table.get_mut("networks"));
    if let Some(networks) = networks.and_then(|entry| entry.node.table_mut()) {
        let default = || Entry { place: place.clone(), node: Node::empty_table(&place) };
        networks.entry("default".to_owned()).or_insert_with(default);
    }
}

/// Of entries that are `faulty` nothing is said but by others that name them, and more may become so.
pub(crate) fn check(
    tree: &mut Node,
    inactive: &[String],
    faulty: &mut Faulty,
    notices: &mut Vec<Notice>,
    problems: &mut Vec<Problem>,
) {
    leave_out_dependencies(tree, inactive, notices);
    if let Some(version) = tree.table_mut().and_then(|table| table.remove("version")) {
        let message = match root().at("version").map(|branch| branch.key().app) {
            Some(Support::Translated(words)) => format!("`version`: {words}"),
            _ => "`version` is left out".to_owned(),
        };
        notices.push(Notice::new(&version.place, message));
    }
    names(tree, faulty, problems);
    let services = tree.get("services");
    let is_empty = services.is_none_or(|services| services.entries().next().is_none());
    if is_empty && !faulty.has_service() {
        let message = match inactive {
            [] => "there is no service; a compose file has some under `services`",
            _ => "no service is left: name the profiles that are wanted",
        };
        problems.push(Problem::new(&tree.place, message));
    }
    let Some(services) = services else { return };
    for (name, entry) in services.entries() {
        let before = problems.len();
        let (node, place) = (&entry.node, &entry.place);
        Service { tree, services, inactive, faulty, name, node, place }.check(problems);
        faulty.note("services", name, before..problems.len());
    }
    ports(services, faulty, problems);
    cycles(services, faulty, problems);
    sources(tree, faulty, problems);
}

/// A dependency that may be missing, and is.
fn leave_out_dependencies(tree: &mut Node, inactive: &[String], notices: &mut Vec<Notice>) {
    let there: BTreeSet<String> =
        tree.get("services").into_iter().flat_map(Node::entries).map(|(name, _)| name.clone()).collect();
    let services = tree.table_mut().and_then(|table| table.get_mut("services"));
    for (_, entry) in services.and_then(|entry| entry.node.table_mut()).into_iter().flatten() {
        let depends_on = entry.node.table_mut().and_then(|service| service.get_mut("depends_on"));
        let Some(depends_on) = depends_on.and_then(|entry| entry.node.table_mut()) else { continue };
        depends_on.retain(|name, entry| {
            let may_be_missing = entry.node.get("required").and_then(Node::text) == Some("false");
            let stays = there.contains(name) || !may_be_missing;
            if !stays {
                let why = if inactive.contains(name) {
                    "none of its profiles is active"
                } else {
                    "it is not there"
                };
                let message = format!("the service `{}` is not waited for: {why}", shown(name));
                notices.push(Notice::new(&entry.place, message));
            }
            stays
        });
    }
}

/// Names are letters, digits, and a few signs in between.
fn names(tree: &Node, faulty: &mut Faulty, problems: &mut Vec<Problem>) {
    for section in ["services", "networks", "volumes", "secrets", "configs", "models"] {
        for (name, entry) in tree.get(section).into_iter().flat_map(Node::entries) {
            let is_sign = |c: char| matches!(c, '.' | '_' | '-');
            if name.is_empty() || !name.chars().all(|c| c.is_ascii_alphanumeric() || is_sign(c)) {
                let message =
                    format!("`{}` is not a name here: use letters, digits, `.`, `_` and `-`", shown(name));
                problems.push(Problem::new(&entry.place, message));
                faulty.note(section, name, problems.len() - 1..problems.len());
            }
        }
    }
}

struct Service<'a> {
    tree: &'a Node,
    services: &'a Node,
    inactive: &'a [String],
    faulty: &'a Faulty,
    name: &'a str,
    node: &'a Node,
    place: &'a Place,
}

impl Service<'_> {
    fn check(&self, problems: &mut Vec<Problem>) {
        let node = self.node;
        if ["image", "build", "provider"].iter().all(|key| node.get(key).is_none()) {
            let message = format!("the service `{}` has neither `image` nor `build`", shown(self.name));
            problems.push(Problem::new(self.place, message));
        }
        for (name, entry) in node.get("depends_on").into_iter().flat_map(Node::entries) {
            self.service(name, &entry.place, problems);
        }
        for key in ["links", "volumes_from"] {
            for item in node.get(key).map(Node::items).unwrap_or_default() {
                let name = item.text().unwrap_or_default().split(':').next().unwrap_or_default();
                if name == "container" {
                    let message = "containers of others cannot be named; name a service of this project";
                    problems.push(Problem::new(&item.place, message));
                } else {
                    self.service(name, &item.place, problems);
                }
            }
        }
        for (name, entry) in node.get("networks").into_iter().flat_map(Node::entries) {
            // There is always a default one, unless nobody is in it.
            if name != "default" {
                self.defined("networks", name, &entry.place, problems);
            }
        }
        if let (Some(mode), Some(networks)) = (node.entry("network_mode"), node.entry("networks")) {
            let message =
                format!("`networks` is in line {} already; write one of the two", networks.place.line);
            problems.push(Problem::new(&mode.place, message));
        }
        for key in ["secrets", "configs"] {
            for item in node.get(key).map(Node::items).unwrap_or_default() {
                let name = item.get("source").and_then(Node::text).unwrap_or_default();
                self.defined(key, name, &item.place, problems);
            }
        }
        for (name, entry) in node.get("models").into_iter().flat_map(Node::entries) {
            self.defined("models", name, &entry.place, problems);
        }
        self.mounts(problems);
    }

    fn mounts(&self, problems: &mut Vec<Problem>) {
        let mut targets: BTreeMap<&str, &Place> = BTreeMap::new();
        for item in self.node.get("volumes").map(Node::items).unwrap_or_default() {
            let of = |key: &str| item.get(key).and_then(Node::text).unwrap_or_default();
            if of("type") == "volume" && !of("source").is_empty() {
                self.defined("volumes", of("source"), &item.place, problems);
            }
            for options in
                ["bind", "volume", "tmpfs", "image"].iter().filter(|options| **options != of("type"))
            {
                if let Some(entry) = item.entry(options).filter(|entry| !entry.node.says_nothing()) {
                    let message = format!("`{options}` says nothing of a mount of the type `{}`", of("type"));
                    problems.push(Problem::new(&entry.place, message));
                }
            }
            if let Some(first) = targets.insert(of("target"), &item.place) {
                let message = format!("`{}` is mounted in line {} already", shown(of("target")), first.line);
                problems.push(Problem::new(&item.place, message));
            }
        }
    }

    fn service(&self, name: &str, place: &Place, problems: &mut Vec<Problem>) {
        if self.services.get(name).is_some() || self.faulty.has("services", name) {
            return;
        }
        let message = if self.inactive.iter().any(|inactive| inactive == name) {
            format!(
                "the service `{}` is left out, because none of its profiles is active; name one",
                shown(name)
            )
        } else {
            self.missing("service", name, self.services)
        };
        problems.push(Problem::new(place, message));
    }

    fn defined(&self, section: &str, name: &str, place: &Place, problems: &mut Vec<Problem>) {
        let section_node = self.tree.get(section);
        if section_node.is_some_and(|node| node.get(name).is_some()) {
            return;
        }
        let kind = section.trim_end_matches('s');
        let message = match section_node {
            Some(node) => self.missing(kind, name, node),
            None => format!(
                "there is no {kind} `{0}`; define it: `{section}: {{{0}: …}}` at the top",
                shown(name)
            ),
        };
        problems.push(Problem::new(place, message));
    }

    fn missing(&self, kind: &str, name: &str, section: &Node) -> String {
        match nearest(name, section.entries().map(|(name, _)| name.as_str())) {
            Some(meant) => format!("there is no {kind} `{}`; did you mean `{meant}`?", shown(name)),
            None => format!("there is no {kind} `{}`; define it at the top of the file", shown(name)),
        }
    }
}

/// A service that publishes a port at an address.
struct Publisher<'a> {
    address: &'a str,
    service: &'a str,
    place: &'a Place,
}

/// No two services, and no two lines of one, take the same port of the same address.
fn ports(services: &Node, faulty: &mut Faulty, problems: &mut Vec<Problem>) {
    let mut taken: BTreeMap<(u32, &str), Vec<Publisher<'_>>> = BTreeMap::new();
    for (service, entry) in services.entries() {
        let before = problems.len();
        for item in entry.node.get("ports").map(Node::items).unwrap_or_default() {
            let of = |key: &str| item.get(key).and_then(Node::text).unwrap_or_default();
            let place = &item.place;
            if of("target").parse::<u16>().map_or(true, |port| port == 0) {
                let message = format!("`{}` is not a port: 1 to 65535", shown(of("target")));
                problems.push(Problem::new(place, message));
            }
            if of("published").is_empty() {
                continue;
            }
            let Some((first, last)) = port_range(of("published")) else {
                let message = format!("`{}` is not a port, nor a range of ports", shown(of("published")));
                problems.push(Problem::new(place, message));
                continue;
            };
            // One of a range is chosen, so a range takes none for certain.
            if first != last || first == 0 {
                continue;
            }
            let publisher = Publisher { address: of("host_ip"), service, place };
            let others = taken.entry((first, of("protocol"))).or_default();
            if let Some(Publisher { service, place: there, .. }) =
                others.iter().find(|other| publisher.excludes(other))
            {
                let message =
                    format!("the port {first} is published by the service `{service}` already, in {there}");
                problems.push(Problem::new(place, message));
            }
            others.push(publisher);
        }
        faulty.note("services", service, before..problems.len());
    }
}

impl Publisher<'_> {
    fn excludes(&self, other: &Self) -> bool {
        let is_everywhere = |address: &str| matches!(address, "" | "0.0.0.0" | "::");
        self.address == other.address || is_everywhere(self.address) || is_everywhere(other.address)
    }
}

/// Services that wait for each other in a circle would wait for ever.
fn cycles(services: &Node, faulty: &mut Faulty, problems: &mut Vec<Problem>) {
    let of = |name: &str| -> Vec<(&str, &Place)> {
        let depends_on = services.get(name).and_then(|service| service.get("depends_on"));
        depends_on
            .into_iter()
            .flat_map(Node::entries)
            .map(|(name, entry)| (name.as_str(), &entry.place))
            .collect()
    };
    let mut done: BTreeSet<&str> = BTreeSet::new();
    for (start, _) in services.entries() {
        // By hand, and not by calls: thousands of services may wait in a row.
        let mut way: Vec<(&str, Vec<(&str, &Place)>)> = Vec::new();
        let mut on_way: BTreeSet<&str> = BTreeSet::new();
        if !done.contains(start.as_str()) {
            way.push((start, of(start)));
            on_way.insert(start);
        }
        while let Some((name, left)) = way.last_mut() {
            let Some((next, place)) = left.pop() else {
                done.insert(name);
                on_way.remove(name);
                way.pop();
                continue;
            };
            if on_way.contains(next) {
                let from = way.iter().position(|(name, _)| *name == next).unwrap_or_default();
                let names = way[from..].iter().map(|(name, _)| format!("`{name}`")).collect::<Vec<_>>();
                let message = format!("`{next}` waits for itself, by {}", names.join(", "));
                problems.push(Problem::new(place, message));
                faulty.note("services", next, problems.len() - 1..problems.len());
                way[from..].iter().for_each(|(name, _)| faulty.add("services", name));
            } else if !done.contains(next) {
                on_way.insert(next);
                let of_next = of(next);
                way.push((next, of_next));
            }
        }
    }
}

/// A secret or a config comes from one place.
fn sources(tree: &Node, faulty: &mut Faulty, problems: &mut Vec<Problem>) {
    for (section, ways) in
        [("secrets", &["file", "environment"][..]), ("configs", &["file", "environment", "content"][..])]
    {
        for (name, entry) in tree.get(section).into_iter().flat_map(Node::entries) {
            if faulty.has(section, name) {
                continue;
            }
            let is_external = entry.node.get("external").and_then(Node::text) == Some("true");
            let given = ways.iter().filter(|way| entry.node.get(way).is_some()).count();
            let has_driver = entry.node.get("driver").is_some();
            let message = match (is_external, given) {
                (true, 0) | (false, 1) => continue,
                (false, 0) if has_driver => continue,
                (true, _) => format!("`{}` is external, so its value is not given here as well", shown(name)),
                (false, 0) => {
                    let list = ways.iter().map(|way| format!("`{way}`")).collect::<Vec<_>>().join(", ");
                    format!("`{}` has no value: write one of {list}, or `external: true`", shown(name))
                }
                (false, _) => format!("`{}` has several values; write one of them", shown(name)),
            };
            problems.push(Problem::new(&entry.place, message));
            faulty.note(section, name, problems.len() - 1..problems.len());
        }
    }
}
