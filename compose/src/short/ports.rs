//! `ports`: `[[address:]published:]target[/protocol]`, also with ranges.

use super::each;
use crate::node::{Node, Place};
use crate::problem::{Problem, shown};

/// Of one line. Each is a port of its own afterwards.
const RANGE_MAX: u32 = 1000;

pub(crate) fn ports(node: Node) -> Result<Node, Problem> {
    each(node, |text, place| long(text, place).map_err(|message| Problem::new(place, message)), complete)
}

fn complete(mut item: Node) -> Result<Node, Problem> {
    let place = item.place.clone();
    if item.table().is_some() && item.get("target").is_none() {
        return Err(Problem::new(&place, "`target` is needed: the port that the service listens at"));
    }
    for (key, default) in [("protocol", "tcp"), ("mode", "ingress")] {
        if item.get(key).is_none() {
            item.set(key, Node::text_at(&place, default));
        }
    }
    Ok(item)
}

fn long(text: &str, place: &Place) -> Result<Vec<Node>, String> {
    let malformed = || {
        format!(
            "`{}` is not a port; write `8080:80`, `127.0.0.1:8080:80/udp`, or a range of each",
            shown(text)
        )
    };
    let (rest, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let (rest, target) = rest.rsplit_once(':').unwrap_or(("", rest));
    let (address, published) = match rest.rsplit_once(':') {
        Some((address, published)) => (address, published),
        None => ("", rest),
    };
    let address = address.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(address);
    if !address.is_empty() && address.parse::<std::net::IpAddr>().is_err() {
        return Err(malformed());
    }
    let targets = range(target).ok_or_else(malformed)?;
    let publisheds = if published.is_empty() { None } else { Some(range(published).ok_or_else(malformed)?) };
    let of = |(first, last): (u32, u32)| last - first + 1;
    if of(targets) > RANGE_MAX {
        return Err(format!("`{}` has more than {RANGE_MAX} ports; publish fewer", shown(text)));
    }
    if publisheds.is_some_and(|publisheds| of(targets) > 1 && of(targets) != of(publisheds)) {
        return Err(format!("`{}` has two ranges of different lengths", shown(text)));
    }
    let port = |index: u32| {
        let mut entries = vec![
            ("target", Node::plain_at(place, targets.0 + index)),
            ("protocol", Node::text_at(place, protocol.to_ascii_lowercase())),
            ("mode", Node::text_at(place, "ingress")),
        ];
        if let Some((first, last)) = publisheds {
            let is_pool = of(targets) == 1 && first != last;
            let published = if is_pool { format!("{first}-{last}") } else { (first + index).to_string() };
            entries.push(("published", Node::text_at(place, published)));
        }
        if !address.is_empty() {
            entries.push(("host_ip", Node::text_at(place, address)));
        }
        Node::table_at(place, entries)
    };
    Ok((0..of(targets)).map(port).collect())
}

/// The first and the last port of `8000` or `8000-8010`.
pub(crate) fn range(text: &str) -> Option<(u32, u32)> {
    let port = |text: &str| {
        let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse::<u32>().ok().filter(|port| is_number && *port <= 65535)
    };
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (port(first)?, port(last)?);
    (first <= last).then_some((first, last))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Vec<String> {
        let place = Place::new(&"f".into(), 1, 1);
        let shown = |node: &Node| {
            ["host_ip", "published", "target", "protocol"]
                .map(|key| node.get(key).and_then(Node::text).unwrap_or("-"))
                .join(" ")
        };
        long(text, &place).unwrap().iter().map(shown).collect()
    }

    #[test]
    fn every_short_form_has_a_long_one() {
        for (text, expected) in [
            ("80", vec!["- - 80 tcp"]),
            ("8080:80", vec!["- 8080 80 tcp"]),
            ("8080:80/UDP", vec!["- 8080 80 udp"]),
            ("127.0.0.1:8080:80", vec!["127.0.0.1 8080 80 tcp"]),
            ("127.0.0.1::80", vec!["127.0.0.1 - 80 tcp"]),
            ("[::1]:8080:80", vec!["::1 8080 80 tcp"]),
            ("3000-3001", vec!["- - 3000 tcp", "- - 3001 tcp"]),
            ("9000-9001:80-81", vec!["- 9000 80 tcp", "- 9001 81 tcp"]),
            ("9000-9010:80", vec!["- 9000-9010 80 tcp"]),
        ] {
            assert_eq!(of(text), expected, "{text}");
        }
    }

    #[test]
    fn what_is_no_port_is_refused() {
        let place = Place::new(&"f".into(), 1, 1);
        for bad in [
            "",
            "http",
            "80:",
            "70000",
            "x:80:80",
            "90-80",
            "1-65535:1-65535",
            "1-2:1-3",
            "-1",
            "8080:80:80:80",
        ] {
            assert!(long(bad, &place).is_err(), "{bad}");
        }
    }
}
