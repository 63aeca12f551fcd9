//! `volumes` of a service: `source:target:options`.

use super::each;
use crate::node::{Node, Place};
use crate::problem::{Problem, shown};

pub(crate) fn mounts(node: Node) -> Result<Node, Problem> {
    each(
        node,
        |text, place| Ok(vec![long(text, place).map_err(|message| Problem::new(place, message))?]),
        complete,
    )
}

fn complete(item: Node) -> Result<Node, Problem> {
    let of = |key: &str| item.get(key).and_then(Node::text).unwrap_or_default().to_owned();
    let problem = |message: String| Err(Problem::new(&item.place, message));
    let (kind, source, target) = (of("type"), of("source"), of("target"));
    if item.table().is_none() {
        return problem("a mount is a text such as `data:/var/lib/data`, or a table with `type`".to_owned());
    }
    if kind == "npipe" {
        return problem("named pipes are there on Windows only, and workers run on Linux".to_owned());
    }
    if kind.is_empty() {
        return problem("`type` is needed: `volume`, `bind`, `tmpfs` or `image`".to_owned());
    }
    if let Some(message) = windows(&source).or_else(|| windows(&target)) {
        return problem(message);
    }
    if !target.starts_with('/') {
        return problem(format!("the target `{}` is not an absolute path, such as `/data`", shown(&target)));
    }
    if source.is_empty() && matches!(kind.as_str(), "bind" | "image" | "cluster") {
        return problem(format!("a mount of the type `{kind}` needs a `source`"));
    }
    Ok(item)
}

fn long(text: &str, place: &Place) -> Result<Node, String> {
    if let Some(message) = windows(text) {
        return Err(message);
    }
    let parts: Vec<&str> = text.split(':').collect();
    let (source, target, options) = match parts[..] {
        [target] => (None, target, ""),
        [source, target] => (Some(source), target, ""),
        [source, target, options] => (Some(source), target, options),
        _ => return Err(format!("`{}` is not a mount; write `source:target:ro`", shown(text))),
    };
    if let Some(message) = windows(target) {
        return Err(message);
    }
    if !target.starts_with('/') || source == Some("") {
        return Err(format!("`{}`: the target is not an absolute path, such as `/data`", shown(text)));
    }
    let is_path = source.is_some_and(|source| source.starts_with(['.', '/', '~']));
    let mut mount = Node::table_at(
        place,
        [
            ("type", Node::text_at(place, if is_path { "bind" } else { "volume" })),
            ("target", Node::text_at(place, target)),
        ],
    );
    if let Some(source) = source {
        mount.set("source", Node::text_at(place, source));
    }
    let mut bind = Node::empty_table(place);
    for option in options.split(',').filter(|option| !option.is_empty()) {
        match option {
            "rw" => {}
            "ro" => mount.set("read_only", Node::plain_at(place, true)),
            "cached" | "delegated" | "consistent" => mount.set("consistency", Node::text_at(place, option)),
            "nocopy" => {
                let nocopy = Node::table_at(place, [("nocopy", Node::plain_at(place, true))]);
                mount.set("volume", nocopy);
            }
            "z" | "Z" if is_path => bind.set("selinux", Node::text_at(place, option)),
            "shared" | "slave" | "private" | "rshared" | "rslave" | "rprivate" if is_path => {
                bind.set("propagation", Node::text_at(place, option));
            }
            _ => return Err(format!("`{}`: there is no option `{}`", shown(text), shown(option))),
        }
    }
    if is_path {
        // What the engine does for a short form, and not for a long one.
        bind.set("create_host_path", Node::plain_at(place, true));
        mount.set("bind", bind);
    }
    Ok(mount)
}

fn windows(path: &str) -> Option<String> {
    let bytes = path.as_bytes();
    let has_drive = bytes.len() > 2
        && bytes[0].is_ascii_alphabetic()
        && bytes[1] == b':'
        && matches!(bytes[2], b'\\' | b'/');
    // `c:/data` and `c:/data:ro` may be a volume named `c`.
    let is_drive_mount =
        has_drive && (bytes[2] == b'\\' || path.split(':').nth(2).is_some_and(|part| part.starts_with('/')));
    (is_drive_mount || path.starts_with("\\\\")).then(|| {
        format!("`{}` is a path of Windows, and workers run on Linux; use a named volume", shown(path))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_short_form_has_a_long_one() {
        let place = Place::new(&"f".into(), 1, 1);
        for (text, expected) in [
            ("/data", r#"{"target":"/data","type":"volume"}"#),
            ("db:/data", r#"{"source":"db","target":"/data","type":"volume"}"#),
            (
                "db:/data:ro,nocopy",
                r#"{"read_only":true,"source":"db","target":"/data","type":"volume","volume":{"nocopy":true}}"#,
            ),
            (
                "./a:/b:ro,z",
                r#"{"bind":{"create_host_path":true,"selinux":"z"},"read_only":true,"source":"./a","target":"/b","type":"bind"}"#,
            ),
            ("~/a:/b", r#"{"bind":{"create_host_path":true},"source":"~/a","target":"/b","type":"bind"}"#),
            ("c:/data", r#"{"source":"c","target":"/data","type":"volume"}"#),
        ] {
            let json: serde_json::Value = serde_json::from_str(expected).unwrap();
            assert_eq!(long(text, &place).unwrap().to_json(), json, "{text}");
        }
    }

    #[test]
    fn what_is_no_mount_is_refused_with_its_reason() {
        let place = Place::new(&"f".into(), 1, 1);
        for (text, reason) in [
            ("C:\\data:/data", "path of Windows"),
            ("C:/data:/data", "path of Windows"),
            ("\\\\.\\pipe\\x:/y", "path of Windows"),
            ("db:data", "not an absolute path"),
            ("data", "not an absolute path"),
            ("a:/b:c:d", "is not a mount"),
            ("db:/data:z", "no option `z`"),
            ("db:/data:later", "no option `later`"),
        ] {
            let message = long(text, &place).unwrap_err();
            assert!(message.contains(reason), "{text}: {message}");
        }
    }
}
