//! What a user wants of an app. A spec is written by the user and never changed by us.
//!
//! Every field has a default, so the empty spec is a working HTTP app. Unknown fields are refused.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::quantity::{ByteSize, Span};

/// The settings of an app; inside a release they are immutable.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AppSpec {
    /// Environment variables of the guest. Values are plain text; at most 32 KiB in all.
    pub env: BTreeMap<String, String>,
    /// Arguments of the guest, after its own name.
    pub args: Vec<String>,
    pub http: HttpSpec,
    pub scale: ScaleSpec,
    pub limits: LimitsSpec,
    pub restart: RestartSpec,
    pub update: UpdateSpec,
    pub stop: StopSpec,
    pub outbound: OutboundSpec,
    pub reuse: ReuseSpec,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct HttpSpec {
    /// Routes beside the default one: a hostname with an optional path prefix, such as `hello.example.com/api`.
    pub routes: Vec<String>,
    pub health: HealthSpec,
}

/// Health checks over HTTP. Startup: until the first success, every `startup_period`. Readiness: afterwards every
/// `period`; `threshold` results in a row flip it. Liveness: only with a `liveness_path`; `threshold` failures in a
/// row replace the instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct HealthSpec {
    /// Path of the readiness check. Ready is a status below 500, or 200–399 where a path is given.
    pub path: Option<String>,
    /// Path of the liveness check, 200–399 is alive. None: no liveness check.
    pub liveness_path: Option<String>,
    pub period: Span,
    pub startup_period: Span,
    pub timeout: Span,
    pub threshold: u32,
}

impl Default for HealthSpec {
    fn default() -> Self {
        Self {
            path: None,
            liveness_path: None,
            period: Span::from_secs(1),
            startup_period: Span::from_millis(100),
            timeout: Span::from_secs(1),
            threshold: 3,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ScaleSpec {
    /// Number of slots, 0 to 1000.
    pub replicas: u32,
}

impl Default for ScaleSpec {
    fn default() -> Self {
        Self { replicas: 1 }
    }
}

/// The most that an app may ask for.
pub const REPLICAS_MAX: u32 = 1000;

/// Bounds of one guest store and one invocation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct LimitsSpec {
    /// Over all memories and tables of a store.
    pub memory: ByteSize,
    /// Wall clock of one request, from its head to the end of its response's head.
    pub timeout: Span,
    /// CPU time of one request.
    pub cpu: Span,
    /// Requests of one instance at once; more wait for a short while, then get 503.
    pub concurrency: u32,
    /// Largest request body. A larger one gets 413.
    pub request_body: ByteSize,
}

impl Default for LimitsSpec {
    fn default() -> Self {
        Self {
            memory: ByteSize::mib(128),
            timeout: Span::from_secs(30),
            cpu: Span::from_secs(10),
            concurrency: 256,
            request_body: ByteSize::mib(1024),
        }
    }
}

/// When an ended guest is replaced in its slot. The first replacement comes after `delay`, later ones after
/// `backoff` doubling up to `backoff_max`, each with jitter; `reset_after` of good health starts over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RestartSpec {
    pub condition: RestartCondition,
    pub delay: Span,
    pub backoff: Span,
    pub backoff_max: Span,
    pub reset_after: Span,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum RestartCondition {
    #[default]
    Any,
    OnFailure,
    Never,
}

impl Default for RestartSpec {
    fn default() -> Self {
        Self {
            condition: RestartCondition::Any,
            delay: Span::from_secs(0),
            backoff: Span::from_millis(100),
            backoff_max: Span::from_secs(30),
            reset_after: Span::from_secs(60),
        }
    }
}

/// How a rollout moves. Start first, so that no slot is ever without an instance that serves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct UpdateSpec {
    /// Slots moved at once, in percent of all, rounded up; 1 to 100.
    pub parallelism_percent: u32,
    /// How long failures of the new release still roll back after it took over.
    pub monitor: Span,
    /// A rollout that makes no progress for this long has failed.
    pub progress_deadline: Span,
}

impl Default for UpdateSpec {
    fn default() -> Self {
        Self { parallelism_percent: 25, monitor: Span::from_secs(5), progress_deadline: Span::from_secs(60) }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct StopSpec {
    /// How long open requests may finish.
    pub drain: Span,
}

impl Default for StopSpec {
    fn default() -> Self {
        Self { drain: Span::from_secs(30) }
    }
}

/// What the guest may reach. Nothing, unless it is listed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct OutboundSpec {
    /// Grants such as `https://api.example.com`, `http://10.0.0.5:8080` or `http://other-app.internal`.
    pub allow: Vec<String>,
}

/// How many invocations share one guest store.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ReuseSpec {
    /// None: a new store per request for WASI 0.2, `concurrent` for WASI 0.3.
    pub mode: Option<ReuseMode>,
    /// Requests that one store serves before it is replaced. None: 128 for WASI 0.3, 1000 for `serial`.
    pub max_requests: Option<u32>,
    /// Requests in one store at once (`concurrent` only). None: 16.
    pub max_concurrent: Option<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ReuseMode {
    /// Every request meets fresh memory.
    PerRequest,
    /// One request after the other in the same memory.
    Serial,
    /// Several requests at once in the same memory; a trap ends all of them. WASI 0.3 only.
    Concurrent,
}

/// Why a spec cannot be run, naming the field.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct InvalidSpec {
    pub field: String,
    pub problem: String,
}

impl AppSpec {
    /// Checks what the field types alone do not.
    pub fn validate(&self) -> Result<(), InvalidSpec> {
        let invalid = |field: &str, problem: String| Err(InvalidSpec { field: field.to_owned(), problem });
        if self.scale.replicas > REPLICAS_MAX {
            return invalid("scale.replicas", format!("{} is more than {REPLICAS_MAX}", self.scale.replicas));
        }
        let percent = self.update.parallelism_percent;
        if !(1..=100).contains(&percent) {
            return invalid("update.parallelism_percent", format!("{percent} is not between 1 and 100"));
        }
        if self.http.health.threshold == 0 {
            return invalid("http.health.threshold", "must be at least 1".into());
        }
        for (field, span, least_millis) in [
            ("http.health.period", self.http.health.period, 10),
            ("http.health.startup_period", self.http.health.startup_period, 10),
            ("http.health.timeout", self.http.health.timeout, 1),
            ("limits.timeout", self.limits.timeout, 1),
            ("limits.cpu", self.limits.cpu, 1),
            ("update.progress_deadline", self.update.progress_deadline, 100),
            ("restart.backoff", self.restart.backoff, 1),
        ] {
            if span.as_duration().as_millis() < least_millis {
                return invalid(field, format!("{span} is less than {least_millis}ms"));
            }
        }
        if self.limits.concurrency == 0 {
            return invalid("limits.concurrency", "must be at least 1".into());
        }
        if self.limits.memory > ByteSize::mib(4096) {
            return invalid(
                "limits.memory",
                format!("{} is more than a 32-bit guest can address, 4GiB", self.limits.memory),
            );
        }
        for path in [&self.http.health.path, &self.http.health.liveness_path].into_iter().flatten() {
            if !path.starts_with('/') {
                return invalid("http.health", format!("the path `{path}` does not start with `/`"));
            }
        }
        let env_bytes: usize = self.env.iter().map(|(key, value)| key.len() + value.len() + 2).sum();
        if env_bytes > 32 << 10 {
            return invalid("env", format!("{env_bytes} bytes in all, more than 32768"));
        }
        for key in self.env.keys() {
            if key.is_empty() || key.contains(['=', '\0']) {
                return invalid("env", format!("`{key}` is not a variable's name"));
            }
        }
        for route in &self.http.routes {
            if let Err(error) = route.parse::<crate::route::RoutePattern>() {
                return invalid("http.routes", error.to_string());
            }
        }
        for grant in &self.outbound.allow {
            if let Err(error) = grant.parse::<OutboundGrant>() {
                return invalid("outbound.allow", error.to_string());
            }
        }
        Ok(())
    }
}

/// One parsed entry of [`OutboundSpec::allow`]: scheme, host and port that a guest may connect to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutboundGrant {
    pub scheme: OutboundScheme,
    /// A hostname in lower case, `*.` and a hostname (any name below it), an IP address, a CIDR block, or `*` for any public name.
    pub host: String,
    /// None: any port.
    pub port: Option<u16>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutboundScheme {
    Http,
    Https,
    Tcp,
    Udp,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is not a grant: write scheme, host and port, such as `https://api.example.com` or `tcp://10.0.0.5:5432`"
)]
pub struct InvalidGrant(String);

impl std::str::FromStr for OutboundGrant {
    type Err = InvalidGrant;

    fn from_str(text: &str) -> Result<Self, InvalidGrant> {
        let invalid = || InvalidGrant(text.chars().take(120).collect());
        let (scheme, rest) = text.split_once("://").ok_or_else(invalid)?;
        let (scheme, default_port) = match scheme {
            "http" => (OutboundScheme::Http, Some(80)),
            "https" => (OutboundScheme::Https, Some(443)),
            "tcp" => (OutboundScheme::Tcp, None),
            "udp" => (OutboundScheme::Udp, None),
            _ => return Err(invalid()),
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (host, port) = match rest.rsplit_once(':') {
            Some((host, "*")) => (host, None),
            Some((host, port)) if !host.contains(':') || host.ends_with(']') => {
                (host, Some(port.parse().map_err(|_| invalid())?))
            }
            _ => (rest, default_port),
        };
        let host = host.trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase();
        let valid = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | ':' | '*' | '/' | '_');
        if host.is_empty() || !host.chars().all(valid) {
            return Err(invalid());
        }
        if host.contains('/') {
            let (network, bits) = host.split_once('/').ok_or_else(invalid)?;
            let network: std::net::IpAddr = network.parse().map_err(|_| invalid())?;
            let bits: u8 = bits.parse().map_err(|_| invalid())?;
            if bits > if network.is_ipv4() { 32 } else { 128 } {
                return Err(invalid());
            }
        }
        Ok(Self { scheme, host, port })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_empty_spec_is_valid_and_survives_json() {
        let spec = AppSpec::default();
        spec.validate().unwrap();
        let json = serde_json::to_string(&spec).unwrap();
        assert_eq!(serde_json::from_str::<AppSpec>(&json).unwrap(), spec);
        assert_eq!(serde_json::from_str::<AppSpec>("{}").unwrap(), spec);
    }

    #[test]
    fn an_unknown_field_is_refused_by_name() {
        let error = serde_json::from_str::<AppSpec>(r#"{"scale":{"replica":2}}"#).unwrap_err();
        assert!(error.to_string().contains("`replica`"), "{error}");
    }

    #[test]
    fn bad_values_name_their_field() {
        let mut spec = AppSpec::default();
        spec.scale.replicas = REPLICAS_MAX + 1;
        assert_eq!(spec.validate().unwrap_err().field, "scale.replicas");
    }

    #[test]
    fn grants_are_parsed() {
        let grant: OutboundGrant = "https://API.example.com".parse().unwrap();
        assert_eq!((grant.host.as_str(), grant.port), ("api.example.com", Some(443)));
        let grant: OutboundGrant = "tcp://10.0.0.0/8:*".parse().unwrap();
        assert_eq!((grant.host.as_str(), grant.port), ("10.0.0.0/8", None));
        assert!("api.example.com".parse::<OutboundGrant>().is_err());
        assert!("ftp://x".parse::<OutboundGrant>().is_err());
        assert!("http://10.0.0.0/99".parse::<OutboundGrant>().is_err());
    }
}
