//! The rules of this machine's packet filter that bound and count what leaves the bridges of a namespace.
//!
//! There are two for each bridge, in the table `mangle`, which no engine uses: the first drops what is more than the rate, the second counts the rest and
//! does nothing else. The first ones of a namespace share one bucket of the kernel (`--hashlimit-name`). Comments have the id of the node and the
//! rate, so that a worker knows its own rules again, also those of a process that was killed. What goes to the node itself, and what containers of
//! one bridge send each other, is not forwarded and passes by neither.

use wharf_types::{Digest, NamespaceName};

use crate::reach::filter::run;

/// Of the comment in front of the node's id.
const OURS: &str = "wharf-egress-";
/// Of the comment behind it, on the rule that counts.
const SENT: &str = "sent";
/// The kernel counts in sixteens of octets: below one a second nothing may pass.
const RATE_MIN: u64 = 16;
/// Above this a burst has more octets than the kernel counts, and hardly any machine sends as much: nothing is dropped.
const RATE_MAX: u64 = 3_800_000_000;

/// What is to hold for one bridge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) bridge: String,
    pub(super) namespace: NamespaceName,
    pub(super) per_second: u64,
}

/// A rule of this node as the packet filter lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rule {
    bridge: String,
    kind: Kind,
    /// Octets that it has met.
    octets: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    Count,
    Bound(Bound),
}

/// What is dropped: all that is more than this, of everything that shares the bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Bound {
    bucket: String,
    per_second: u64,
}

/// One change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Step {
    /// For `iptables -t mangle`.
    words: Vec<String>,
    /// The bridge that is counted from now on, and was not before.
    counts: Option<String>,
}

/// The rules that there are of this node.
pub(super) async fn list(node: &str) -> Result<Vec<Rule>, String> {
    let listed = run("iptables", &["-w", "5", "-t", "mangle", "-S", "FORWARD", "-v"]).await?;
    Ok(listed.lines().filter_map(|line| read(node, line)).collect())
}

/// Takes every step: one that fails keeps no other bridge waiting. Returns the bridges that are counted from now on, and why the first failed.
pub(super) async fn follow(steps: Vec<Step>) -> (Vec<String>, Result<(), String>) {
    let (mut counted, mut outcome) = (Vec::new(), Ok(()));
    for step in steps {
        let words: Vec<&str> = step.words.iter().map(String::as_str).collect();
        match run("iptables", &[&["-w", "5", "-t", "mangle"], &words[..]].concat()).await {
            Ok(_) => counted.extend(step.counts),
            Err(why) => outcome = outcome.and(Err(why)),
        }
    }
    (counted, outcome)
}

/// What a bridge has let pass since its rule was made. None: there is no such rule.
pub(super) fn passed(found: &[Rule], bridge: &str) -> Option<u64> {
    let counts = found.iter().find(|rule| rule.bridge == bridge && rule.kind == Kind::Count);
    counts.map(|rule| rule.octets)
}

/// What makes the rules that are wanted of those that there are. A new bound is there before the old one goes, so that nothing passes between.
pub(super) fn steps(node: &str, wanted: &[Wanted], found: &[Rule]) -> Vec<Step> {
    let mut steps = Vec::new();
    for it in wanted {
        let there: Vec<&Rule> = found.iter().filter(|rule| rule.bridge == it.bridge).collect();
        let bound = Bound::of(node, it).map(Kind::Bound);
        let bounds = there.iter().filter(|rule| rule.kind != Kind::Count);
        if !there.iter().any(|rule| rule.kind == Kind::Count) {
            // What counts has to stand behind what drops.
            steps.extend(bounds.map(|rule| remove(node, rule)));
            steps.push(add(node, &it.bridge, &Kind::Count));
            steps.extend(bound.map(|bound| add(node, &it.bridge, &bound)));
            continue;
        }
        if let Some(bound) = bound.as_ref().filter(|bound| !there.iter().any(|rule| rule.kind == **bound)) {
            steps.push(add(node, &it.bridge, bound));
        }
        let others = bounds.filter(|rule| Some(&rule.kind) != bound.as_ref());
        steps.extend(others.map(|rule| remove(node, rule)));
    }
    let is_wanted = |rule: &&Rule| wanted.iter().any(|it| it.bridge == rule.bridge);
    steps.extend(found.iter().filter(|rule| !is_wanted(rule)).map(|rule| remove(node, rule)));
    steps
}

impl Bound {
    /// None: nothing is dropped.
    fn of(node: &str, wanted: &Wanted) -> Option<Self> {
        let Wanted { namespace, per_second, .. } = wanted;
        // Another rate is another bucket: the kernel keeps the rate that a bucket was made with for as long as any rule names it.
        let digest = Digest::of(format!("{node}\n{namespace}\n{per_second}").as_bytes()).short();
        // The kernel's older matches take 15 octets.
        let bucket = format!("wharf{}", &digest[..10]);
        (*per_second <= RATE_MAX).then_some(Self { bucket, per_second: *per_second })
    }

    /// What is met by it.
    fn matches(&self) -> String {
        let Self { bucket, per_second } = self;
        if *per_second < RATE_MIN {
            return String::new();
        }
        // A second's worth, and as much more as `iptables` asks for because it rounds the rate.
        let burst = per_second + per_second / 8 + 1024;
        format!(
            "-m hashlimit --hashlimit-above {per_second}b/s --hashlimit-burst {burst}b --hashlimit-name {bucket}"
        )
    }
}

fn add(node: &str, bridge: &str, kind: &Kind) -> Step {
    let words = ["-I", "FORWARD", "1"].map(str::to_owned).into_iter();
    Step {
        words: words.chain(words_of(node, bridge, kind)).collect(),
        counts: (*kind == Kind::Count).then(|| bridge.to_owned()),
    }
}

fn remove(node: &str, rule: &Rule) -> Step {
    let words = ["-D", "FORWARD"].map(str::to_owned).into_iter();
    // As it was put in: what is listed was rounded.
    Step { words: words.chain(words_of(node, &rule.bridge, &rule.kind)).collect(), counts: None }
}

/// Everything behind the name of the chain.
fn words_of(node: &str, bridge: &str, kind: &Kind) -> Vec<String> {
    let leaves = format!("-i {bridge} ! -o {bridge}");
    let text = match kind {
        Kind::Count => format!("{leaves} -m comment --comment {OURS}{node}-{SENT}"),
        Kind::Bound(bound) => format!(
            "{leaves} {} -m comment --comment {OURS}{node}-{}-{} -j DROP",
            bound.matches(),
            bound.bucket,
            bound.per_second
        ),
    };
    text.split_whitespace().map(str::to_owned).collect()
}

/// A line of `iptables -S FORWARD -v`. None: it is not of this node.
fn read(node: &str, line: &str) -> Option<Rule> {
    let words: Vec<&str> = line.split_whitespace().map(|word| word.trim_matches('"')).collect();
    let after = |flag: &str, by: usize| {
        let at = words.iter().position(|word| *word == flag)?;
        words.get(at + by).copied()
    };
    let about = after("--comment", 1)?.strip_prefix(OURS)?.strip_prefix(node)?.strip_prefix('-')?;
    let kind = match about {
        SENT => Kind::Count,
        bound => {
            let (bucket, per_second) = bound.split_once('-')?;
            Kind::Bound(Bound { bucket: bucket.to_owned(), per_second: per_second.parse().ok()? })
        }
    };
    let octets = after("-c", 2)?.parse().ok()?;
    Some(Rule { bridge: after("-i", 1)?.to_owned(), kind, octets })
}

#[cfg(test)]
impl Rule {
    pub(super) fn count(bridge: &str, octets: u64) -> Self {
        Self { bridge: bridge.to_owned(), kind: Kind::Count, octets }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: &str = "01a22d41-89c9-77d3-877e-ad5ba40ae404";

    fn wanted(bridge: &str, namespace: &str, per_second: u64) -> Wanted {
        Wanted { bridge: bridge.to_owned(), namespace: namespace.parse().unwrap(), per_second }
    }

    fn said(steps: &[Step]) -> Vec<String> {
        steps.iter().map(|step| step.words.join(" ")).collect()
    }

    /// What the packet filter has after these steps, first the rule that is in front.
    fn after(mut found: Vec<Rule>, steps: &[Step]) -> Vec<Rule> {
        for step in steps {
            let is_new = step.words[0] == "-I";
            let words = step.words[if is_new { 3 } else { 2 }..].join(" ");
            let target = if words.ends_with("-j DROP") { "-c 1 60 -j DROP" } else { "-c 1 60" };
            let line = format!("-A FORWARD {} {target}", words.trim_end_matches(" -j DROP"));
            let rule = read(NODE, &line).unwrap();
            if is_new {
                found.insert(0, rule);
            } else {
                let at = found.iter().position(|it| (&it.bridge, &it.kind) == (&rule.bridge, &rule.kind));
                found.remove(at.unwrap());
            }
        }
        found
    }

    #[test]
    fn a_rule_is_read_as_the_packet_filter_lists_it() {
        let line = format!(
            "-A FORWARD -i br-0123456789ab ! -o br-0123456789ab -m hashlimit --hashlimit-above 12336b/s --hashlimit-burst 24kb \
             --hashlimit-name wharf0123456789 -m comment --comment \"wharf-egress-{NODE}-wharf0123456789-12345\" -c 433 1104548 -j DROP"
        );
        let bound = Bound { bucket: "wharf0123456789".to_owned(), per_second: 12_345 };
        let rule = Rule { bridge: "br-0123456789ab".to_owned(), kind: Kind::Bound(bound), octets: 1_104_548 };
        assert_eq!(read(NODE, &line), Some(rule));
        let line =
            format!("-A FORWARD -i br-1 ! -o br-1 -m comment --comment wharf-egress-{NODE}-sent -c 2 120");
        assert_eq!(read(NODE, &line), Some(Rule::count("br-1", 120)));
        for other in [
            "-P FORWARD ACCEPT -c 0 0",
            "-A FORWARD -i br-1 -m comment --comment wharf-egress-another-sent -c 2 120",
            "-A FORWARD -i br-1 -m comment --comment of-somebody -c 2 120 -j ACCEPT",
            "",
        ] {
            assert_eq!(read(NODE, other), None, "{other}");
        }
    }

    #[test]
    fn what_is_too_much_is_dropped_before_the_rest_is_counted() {
        let steps = steps(NODE, &[wanted("br-1", "blue", 100_000)], &[]);
        let [count, bound] = &said(&steps)[..] else { panic!("{steps:?}") };
        assert_eq!(
            count,
            &format!("-I FORWARD 1 -i br-1 ! -o br-1 -m comment --comment wharf-egress-{NODE}-sent")
        );
        assert!(bound.starts_with("-I FORWARD 1 -i br-1 ! -o br-1 -m hashlimit --hashlimit-above 100000b/s --hashlimit-burst 113524b "));
        assert!(bound.ends_with(" -j DROP"), "{bound}");
        assert_eq!(steps[0].counts.as_deref(), Some("br-1"));
        assert_eq!(steps[1].counts, None);
    }

    #[test]
    fn bridges_of_one_namespace_share_a_bucket_and_rules_that_are_there_stay() {
        let wanted =
            [wanted("br-1", "blue", 1000), wanted("br-2", "blue", 1000), wanted("br-3", "red", 1000)];
        let found = after(Vec::new(), &steps(NODE, &wanted, &[]));
        let bucket = |bridge: &str| {
            let bound = found.iter().find_map(|rule| match &rule.kind {
                Kind::Bound(bound) if rule.bridge == bridge => Some(bound.bucket.clone()),
                _ => None,
            });
            bound.unwrap()
        };
        assert_eq!(bucket("br-1"), bucket("br-2"));
        assert_ne!(bucket("br-1"), bucket("br-3"));
        assert_eq!(bucket("br-1").len(), 15);
        assert!(steps(NODE, &wanted, &found).is_empty());
        assert!(after(found.clone(), &steps(NODE, &[], &found)).is_empty());
        assert_eq!(steps("another", &wanted[..1], &[]).len(), 2);
    }

    #[test]
    fn another_rate_takes_the_place_of_the_one_before_without_a_gap_and_the_count_goes_on() {
        let found = after(Vec::new(), &steps(NODE, &[wanted("br-1", "blue", 1000)], &[]));
        let changes = steps(NODE, &[wanted("br-1", "blue", 500)], &found);
        let [new, old] = &said(&changes)[..] else { panic!("{changes:?}") };
        assert!(new.starts_with("-I FORWARD 1 ") && new.contains("--hashlimit-above 500b/s"), "{new}");
        assert!(old.starts_with("-D FORWARD ") && old.contains("--hashlimit-above 1000b/s"), "{old}");
        let now = after(found, &changes);
        assert_eq!(now.len(), 2);
        assert_eq!(passed(&now, "br-1"), Some(60));
    }

    #[test]
    fn rules_that_somebody_has_torn_apart_are_made_whole() {
        let blue = [wanted("br-1", "blue", 1000)];
        let whole = after(Vec::new(), &steps(NODE, &blue, &[]));
        for lost in [0, 1] {
            let mut found = whole.clone();
            found.remove(lost);
            assert_eq!(after(found.clone(), &steps(NODE, &blue, &found)), whole);
        }
    }

    #[test]
    fn a_quota_of_nothing_drops_everything_and_a_huge_one_only_counts() {
        let nothing = said(&steps(NODE, &[wanted("br-1", "blue", 0)], &[]));
        assert!(nothing[1].ends_with("-0 -j DROP") && !nothing[1].contains("hashlimit"), "{nothing:?}");
        assert_eq!(steps(NODE, &[wanted("br-1", "blue", u64::MAX)], &[]).len(), 1);
    }
}
