//! How many instances an app has: a number, a range within which its open requests decide, or one on every node.

use std::fmt;

use serde::de::value::MapAccessDeserializer;
use serde::de::{self, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use super::AppSpec;
use super::validate::{REPLICAS_MAX, Validated, invalid};
use crate::quantity::Span;
use crate::world::World;

/// Reports come twice a second: a shorter look back would see one or two of them.
const WINDOW_MIN: Span = Span::from_secs(1);
/// What was measured that long ago says nothing of now.
const WINDOW_MAX: Span = Span::from_secs(3600);
/// As long as one needs to see that the app is there.
const SLEEP_AFTER_MIN: Span = Span::from_secs(1);
const SLEEP_AFTER: Span = Span::from_secs(300);

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ScaleSpec {
    /// Number of slots, 0 to 1000; or a table with `min`, `max` and `concurrency`, between which open requests decide; or `"global"` for one
    /// on every node that the constraints allow.
    pub replicas: Replicas,
    /// Whether there must never be two instances at once, wherever they are, also while hosts cannot reach one another: the old one ends before
    /// another starts, and a host that has lost touch with the control plane for eight seconds ends its own. At most one replica.
    #[serde(skip_serializing_if = "super::is_default")]
    pub singleton: bool,
}

/// `3`, `{ min = 0, max = 20, concurrency = 50 }`, or `"global"`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[serde(untagged)]
pub enum Replicas {
    Fixed(u32),
    Range(ReplicaRange),
    Global(EveryNode),
}

/// One instance on every node that is not drained, that the constraints allow, and that runs what the app is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum EveryNode {
    Global,
}

/// As many instances as the open requests need.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ReplicaRange {
    /// The fewest instances, 0 to 1000. With 0 the app sleeps when nobody asks for it, and the next request wakes it. Default 1.
    #[serde(default = "one")]
    pub min: u32,
    /// The most instances, 1 to 1000.
    pub max: u32,
    /// Open requests, or connections to `tcp.ports`, that each instance should have; 1 up to `limits.concurrency`.
    pub concurrency: u32,
    /// How far back is looked before instances are taken away: as many stay as the most that was asked for meanwhile needs. 1s to 1h,
    /// default 60s.
    #[serde(default = "window")]
    pub window: Span,
    /// How long nobody asks for anything before the app sleeps; from 1s on, default 5m. With `min = 0` only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sleep_after: Option<Span>,
}

fn one() -> u32 {
    1
}

fn window() -> Span {
    Span::from_secs(60)
}

impl Default for Replicas {
    fn default() -> Self {
        Self::Fixed(1)
    }
}

impl From<u32> for Replicas {
    fn from(replicas: u32) -> Self {
        Self::Fixed(replicas)
    }
}

impl Replicas {
    pub const GLOBAL: Self = Self::Global(EveryNode::Global);

    pub fn is_global(&self) -> bool {
        matches!(self, Self::Global(_))
    }

    /// The range, where there is one.
    pub fn range(&self) -> Option<&ReplicaRange> {
        match self {
            Self::Fixed(_) | Self::Global(_) => None,
            Self::Range(range) => Some(range),
        }
    }

    /// The number that an app begins with, before anybody has asked for anything. Of a global one it is known only where the nodes are.
    pub fn first(&self) -> u32 {
        match self {
            Self::Fixed(replicas) => *replicas,
            Self::Range(range) => range.min.max(1),
            Self::Global(_) => 1,
        }
    }

    /// The most that there may be, where the spec bounds it.
    pub fn most(&self) -> u32 {
        match self {
            Self::Fixed(replicas) => *replicas,
            Self::Range(range) => range.max,
            Self::Global(_) => u32::MAX,
        }
    }
}

impl fmt::Display for Replicas {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fixed(replicas) => write!(f, "{replicas}"),
            Self::Range(range) => write!(f, "{} to {}", range.min, range.max),
            Self::Global(_) => f.write_str("one on every node"),
        }
    }
}

impl ReplicaRange {
    /// The nearest number within the range.
    pub fn clamp(&self, replicas: u32) -> u32 {
        replicas.max(self.min).min(self.max)
    }

    /// None: it never sleeps.
    pub fn sleep_after(&self) -> Option<Span> {
        (self.min == 0).then(|| self.sleep_after.unwrap_or(SLEEP_AFTER))
    }
}

struct ReplicasVisitor;

impl<'de> Visitor<'de> for ReplicasVisitor {
    type Value = Replicas;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "a number such as 3, or a table such as { min = 0, max = 20, concurrency = 50 }, or \"global\"",
        )
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<Replicas, E> {
        let replicas = u32::try_from(number);
        replicas.map(Replicas::Fixed).map_err(|_| E::invalid_value(de::Unexpected::Signed(number), &self))
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<Replicas, E> {
        let replicas = u32::try_from(number);
        replicas.map(Replicas::Fixed).map_err(|_| E::invalid_value(de::Unexpected::Unsigned(number), &self))
    }

    /// JSON Schema calls `2.0` an integer.
    fn visit_f64<E: de::Error>(self, number: f64) -> Result<Replicas, E> {
        let replicas = number as u32;
        match f64::from(replicas) == number {
            true => Ok(Replicas::Fixed(replicas)),
            false => Err(E::invalid_type(de::Unexpected::Float(number), &self)),
        }
    }

    fn visit_str<E: de::Error>(self, word: &str) -> Result<Replicas, E> {
        match word {
            "global" => Ok(Replicas::GLOBAL),
            other => Err(E::invalid_value(de::Unexpected::Str(other), &self)),
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, table: A) -> Result<Replicas, A::Error> {
        ReplicaRange::deserialize(MapAccessDeserializer::new(table)).map(Replicas::Range)
    }
}

impl<'de> Deserialize<'de> for Replicas {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ReplicasVisitor)
    }
}

impl AppSpec {
    /// Whether it runs once on every node that may have it.
    pub fn is_global(&self) -> bool {
        self.scale.replicas.is_global()
    }

    /// What cannot be had on every node, or says nothing where each has one.
    fn validate_global(&self) -> Validated {
        let is_global =
            |problem: &str| format!("{problem}; leave it out, or write a number in `scale.replicas`");
        if self.scale.singleton {
            let problem = "a singleton runs once in all, and a global app once on every node";
            return invalid("scale.singleton", is_global(problem));
        }
        if let Some(volume) = self.volumes.first() {
            let problem = format!(
                "an app has its volumes on one node, and a global app runs on every node, so `{}` would be missing on the others",
                volume.name
            );
            return invalid("volumes", is_global(&problem));
        }
        if self.placement.max_per_node.is_some() {
            return invalid(
                "placement.max_per_node",
                is_global("a global app has one instance on every node"),
            );
        }
        if !self.placement.spread.is_empty() {
            let problem = "a global app is on every node that `placement.constraints` allow, and there is nothing to spread";
            return invalid("placement.spread", is_global(problem));
        }
        Ok(())
    }

    pub(super) fn validate_scale(&self) -> Validated {
        let range = match &self.scale.replicas {
            Replicas::Fixed(replicas) if *replicas > REPLICAS_MAX => {
                return invalid("scale.replicas", format!("{replicas} is more than {REPLICAS_MAX}"));
            }
            Replicas::Fixed(_) => return Ok(()),
            Replicas::Global(_) => return self.validate_global(),
            Replicas::Range(range) => range,
        };
        let ReplicaRange { min, max, concurrency, window, sleep_after } = range;
        if *max == 0 {
            let problem = "0 is less than 1; for an app without instances write `replicas = 0`";
            return invalid("scale.replicas.max", problem);
        }
        if *max > REPLICAS_MAX {
            return invalid("scale.replicas.max", format!("{max} is more than {REPLICAS_MAX}"));
        }
        if min > max {
            return invalid("scale.replicas.min", format!("{min} is more than `max`, which is {max}"));
        }
        let most = self.limits.concurrency;
        if *concurrency == 0 {
            return invalid("scale.replicas.concurrency", "0 is less than 1");
        }
        if *concurrency > most {
            let problem = format!(
                "{concurrency} is more than an instance takes at once, so it would never be reached; lower it, or raise \
                 `limits.concurrency`, which is {most}"
            );
            return invalid("scale.replicas.concurrency", problem);
        }
        between("scale.replicas.window", *window, WINDOW_MIN, WINDOW_MAX)?;
        let Some(sleep_after) = *sleep_after else { return Ok(()) };
        if *min > 0 {
            let problem = format!("an app with `min = {min}` never sleeps; write `min = 0`, or leave it out");
            return invalid("scale.replicas.sleep_after", problem);
        }
        between("scale.replicas.sleep_after", sleep_after, SLEEP_AFTER_MIN, Span::from_secs(365 * 24 * 3600))
    }

    /// What of it depends on the artifact.
    pub(super) fn validate_scale_for(&self, world: World) -> Validated {
        let Some(range) = self.scale.replicas.range().filter(|_| !world.is_http()) else { return Ok(()) };
        if self.tcp.ports.is_empty() {
            return invalid(
                "scale.replicas",
                "a command without `tcp.ports` gets no requests that could be counted; write a number",
            );
        }
        if range.min == 0 {
            return invalid(
                "scale.replicas.min",
                "a connection to one of `tcp.ports` cannot wait for an instance, because its client may expect the first word; \
                 write at least 1",
            );
        }
        Ok(())
    }
}

fn between(field: &str, span: Span, least: Span, most: Span) -> Validated {
    if span < least {
        return invalid(field, format!("{span} is less than {least}"));
    }
    if span > most {
        return invalid(field, format!("{span} is more than {most}"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::VolumeSpec;
    use serde_json::json;

    fn spec(replicas: serde_json::Value) -> AppSpec {
        serde_json::from_value(json!({"scale": {"replicas": replicas}})).unwrap()
    }

    fn refused(replicas: serde_json::Value) -> String {
        spec(replicas).validate().unwrap_err().to_string()
    }

    #[test]
    fn a_whole_number_may_be_written_with_a_point_and_nothing_else_may() {
        let replicas = |json: &str| serde_json::from_str::<Replicas>(json).ok();
        assert_eq!(replicas("59586948.0"), Some(Replicas::Fixed(59_586_948)));
        for json in ["2.5", "-1.0", "1e300", "4294967296.0", "\"2\"", "true", "\"Global\""] {
            assert_eq!(replicas(json), None, "{json}");
        }
    }

    #[test]
    fn a_number_stays_a_number_and_a_range_has_defaults() {
        let number = spec(json!(3));
        assert_eq!(serde_json::to_value(&number.scale).unwrap(), json!({"replicas": 3}));
        let range = spec(json!({"min": 0, "max": 20, "concurrency": 50}));
        range.validate().unwrap();
        let Replicas::Range(read) = &range.scale.replicas else { panic!("a table is a range") };
        assert_eq!((read.window, read.sleep_after()), (Span::from_secs(60), Some(Span::from_secs(300))));
        assert_eq!((range.scale.replicas.first(), range.scale.replicas.most()), (1, 20));
        let written = serde_json::to_value(&range).unwrap();
        assert_eq!(serde_json::from_value::<AppSpec>(written).unwrap(), range);
        let awake = spec(json!({"max": 4, "concurrency": 5}));
        assert_eq!(awake.scale.replicas.to_string(), "1 to 4");
        assert_eq!(awake.scale.replicas.range().unwrap().sleep_after(), None);
    }

    #[test]
    fn one_on_every_node_is_a_word_and_has_nothing_that_would_contradict_it() {
        let global = spec(json!("global"));
        global.validate().unwrap();
        global.validate_for(World::CommandP2).unwrap();
        assert!(global.is_global() && global.scale.replicas.range().is_none());
        assert_eq!(serde_json::to_value(&global.scale).unwrap(), json!({"replicas": "global"}));
        let refused = |field: &str, value: serde_json::Value| {
            let mut json = json!({"scale": {"replicas": "global"}});
            let (table, key) = field.split_once('.').unwrap_or((field, ""));
            if key.is_empty() {
                json[table] = value
            } else {
                json[table][key] = value
            };
            let spec: AppSpec = serde_json::from_value(json).unwrap();
            let error = spec.validate().unwrap_err();
            assert_eq!(error.field, field);
            error.problem
        };
        assert!(refused("volumes", json!([{"name": "data", "path": "/data"}])).contains("`data`"));
        assert!(refused("scale.singleton", json!(true)).contains("once in all"));
        assert!(refused("placement.max_per_node", json!(1)).contains("leave it out"));
        assert!(refused("placement.spread", json!(["zone"])).contains("nothing to spread"));
        let error = global.validate_replicas("replicas", 3).unwrap_err();
        assert!(error.problem.contains("`placement.constraints`"), "{error}");
    }

    #[test]
    fn what_is_neither_names_what_is_needed() {
        let error = |replicas: &str| {
            let text = format!(r#"{{"replicas": {replicas}}}"#);
            serde_json::from_str::<ScaleSpec>(&text).unwrap_err().to_string()
        };
        assert!(error("\"3\"").contains("a number such as 3, or a table such as"), "{}", error("\"3\""));
        assert!(error("-1").contains("a number such as 3"), "{}", error("-1"));
        assert!(error(r#"{"max": 2, "concurency": 5}"#).contains("`concurency`"));
        assert!(error(r#"{"max": 2}"#).contains("`concurrency`"));
    }

    #[test]
    fn a_range_that_makes_no_sense_says_why_and_what_to_write() {
        let range = |min: u32, max: u32, concurrency: u32| json!({"min": min, "max": max, "concurrency": concurrency});
        assert_eq!(refused(json!(1001)), "scale.replicas: 1001 is more than 1000");
        assert_eq!(refused(range(5, 4, 1)), "scale.replicas.min: 5 is more than `max`, which is 4");
        assert!(refused(range(0, 0, 1)).contains("write `replicas = 0`"));
        assert_eq!(refused(range(0, 1001, 1)), "scale.replicas.max: 1001 is more than 1000");
        assert_eq!(refused(range(0, 2, 0)), "scale.replicas.concurrency: 0 is less than 1");
        assert!(refused(range(0, 2, 300)).contains("`limits.concurrency`, which is 256"));
        let with = |key: &str, value: &str| {
            let mut range = range(0, 2, 5);
            range[key] = value.into();
            refused(range)
        };
        assert_eq!(with("window", "10ms"), "scale.replicas.window: 10ms is less than 1s");
        assert_eq!(with("window", "2h"), "scale.replicas.window: 2h is more than 1h");
        assert_eq!(with("sleep_after", "0s"), "scale.replicas.sleep_after: 0s is less than 1s");
        let never = refused(json!({"min": 1, "max": 2, "concurrency": 5, "sleep_after": "5m"}));
        assert!(never.contains("`min = 1` never sleeps"), "{never}");
    }

    #[test]
    fn only_what_gets_requests_or_connections_can_be_counted() {
        let mut spec = spec(json!({"min": 0, "max": 2, "concurrency": 5}));
        spec.validate_for(World::HttpProxy).unwrap();
        let error = spec.validate_for(World::CommandP2).unwrap_err();
        assert!(error.field == "scale.replicas" && error.problem.contains("`tcp.ports`"), "{error}");
        spec.tcp.ports = vec![7000];
        assert_eq!(spec.validate_for(World::CommandP2).unwrap_err().field, "scale.replicas.min");
        spec.scale.replicas =
            Replicas::Range(ReplicaRange { min: 1, ..spec.scale.replicas.range().unwrap().clone() });
        spec.validate_for(World::CommandP2).unwrap();
    }

    #[test]
    fn an_app_with_one_writer_may_sleep_but_not_grow() {
        let volume: VolumeSpec = serde_json::from_value(json!({"name": "data", "path": "/data"})).unwrap();
        let with_volume = |max: u32| AppSpec {
            volumes: vec![volume.clone()],
            ..spec(json!({"min": 0, "max": max, "concurrency": 5}))
        };
        with_volume(1).validate().unwrap();
        let error = with_volume(2).validate().unwrap_err();
        assert!(error.field == "scale.replicas.max" && error.problem.contains("`data`"), "{error}");
    }

    #[test]
    fn a_singleton_is_one_and_has_no_trial_beside_it() {
        let read = |json: serde_json::Value| serde_json::from_value::<AppSpec>(json).unwrap();
        let only = read(json!({"scale": {"singleton": true}}));
        only.validate().unwrap();
        read(json!({"scale": {"singleton": true, "replicas": 0}})).validate().unwrap();
        read(json!({"scale": {"singleton": true, "replicas": {"min": 0, "max": 1, "concurrency": 5}}}))
            .validate()
            .unwrap();
        assert_eq!(serde_json::to_value(&only.scale).unwrap(), json!({"replicas": 1, "singleton": true}));
        assert_eq!(serde_json::to_value(ScaleSpec::default()).unwrap(), json!({"replicas": 1}));
        let error = read(json!({"scale": {"singleton": true, "replicas": 2}})).validate().unwrap_err();
        assert!(
            error.field == "scale.replicas" && error.problem.contains("leave one of the two out"),
            "{error}"
        );
        let error = only.validate_replicas("`wharf scale`", 3).unwrap_err();
        assert!(error.to_string().contains("`scale.singleton`"), "{error}");
        let canary = read(json!({"scale": {"singleton": true}, "update": {"canary": {"share": "10%"}}}));
        assert_eq!(canary.validate().unwrap_err().field, "update.canary");
    }
}
