//! Routes: which hostname and path, and which port, lead to which instances.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::id::{InstanceId, NodeId};
use crate::name::{AppName, NamespaceName};
use crate::spec::Ratio;

/// The whole of an ingress's routes at one generation, swapped as a whole.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteTable {
    /// Grows with every change; an ingress reports the newest that it uses.
    pub generation: u64,
    pub routes: Vec<Arc<Route>>,
    /// In the order of their ports; no port twice.
    #[serde(default)]
    pub tcp: Vec<Arc<TcpRoute>>,
    /// The apps in containers, in the order of their namespaces and names.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub containers: Vec<Arc<ContainerRoute>>,
    /// In the order of their namespaces; one that is not there has no limit.
    #[serde(default)]
    pub limits: Vec<RateLimit>,
    /// Where the ingresses of other nodes reach the instances of each, in the order of the nodes. Those of a node that is not there are
    /// reached by the ingress of that node only.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nodes: Vec<RouteNode>,
    /// Nodes that were taken out of the cluster, and may still have a certificate that is valid: their ingresses are let in no more.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub removed: Vec<NodeId>,
}

/// A node that takes requests and connections for its instances from the ingresses of others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteNode {
    pub node: NodeId,
    /// Its listener for peers.
    pub address: SocketAddr,
}

/// What all apps of a namespace together may have of one node: of its ingress in a second, and of the host of its guests. Each node counts for
/// itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RateLimit {
    pub namespace: NamespaceName,
    pub requests_per_second: Option<u64>,
    /// Of answers to clients, of connections to TCP ports, and of what guests and containers send by themselves.
    #[serde(default)]
    pub egress_bytes_per_second: Option<u64>,
    /// What its guests may hold at once. A worker of before passes this and the next over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
    /// What its guests may compute in a second, in thousandths of a processor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_millis: Option<u64>,
}

impl RateLimit {
    /// Without any limit.
    pub fn of(namespace: NamespaceName) -> Self {
        Self {
            namespace,
            requests_per_second: None,
            egress_bytes_per_second: None,
            memory_bytes: None,
            cpu_millis: None,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    pub pattern: RoutePattern,
    pub namespace: NamespaceName,
    pub app: AppName,
    /// May be empty: the app exists, but nothing of it is ready.
    pub endpoints: Vec<Endpoint>,
    /// Whether a user has stopped the app, so that it is no use to try again.
    #[serde(default, skip_serializing_if = "is_false")]
    pub stopped: bool,
    /// Whether the app scales by its open requests, so that they are counted.
    #[serde(default, skip_serializing_if = "is_false")]
    pub counted: bool,
    /// Whether a request that finds no endpoint waits for the first one: the app sleeps, or wakes.
    #[serde(default, skip_serializing_if = "is_false")]
    pub wakes: bool,
    /// The release on trial. None: every endpoint gets as much as the others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub canary: Option<Canary>,
}

fn is_false(value: &bool) -> bool {
    !value
}

/// A release that gets a part of the requests, whatever the number of its endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Canary {
    pub release: u64,
    pub share: Ratio,
}

/// Address of a routed instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    pub instance: InstanceId,
    pub node: NodeId,
    /// Number of the instance's release; requests are counted by it.
    #[serde(default)]
    pub release: u64,
    /// Requests that the instance works on at once. More are better given to an instance of another node. 0: not known.
    #[serde(default)]
    pub concurrency: u32,
}

/// A public port and the instances that its connections go to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TcpRoute {
    pub port: u16,
    pub namespace: NamespaceName,
    pub app: AppName,
    /// May be empty: connections are reset at once.
    pub endpoints: Vec<TcpEndpoint>,
    /// Whether the app scales by its open connections, so that they are counted.
    #[serde(default, skip_serializing_if = "is_false")]
    pub counted: bool,
}

/// A routed instance that listens, with the settings of its own release: during a rollout they may differ.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TcpEndpoint {
    pub instance: InstanceId,
    pub node: NodeId,
    /// Connections of the instance at once, over all its ports.
    pub connections_max: u32,
    pub proxy_protocol: bool,
    #[serde(default)]
    pub release: u64,
}

/// An app in containers, whose ports others of its namespace reach by name. Those with the host's network are none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerRoute {
    pub namespace: NamespaceName,
    pub app: AppName,
    /// The networks of the namespace that it is in, with the names that it has there beside its own. Empty: the namespace's own network.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub networks: BTreeMap<String, Vec<String>>,
    /// Whether the further names are for containers of these networks alone, and no guest's to ask for: it has names of its own for others, so it
    /// may be called as something that is there twice.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub apart: bool,
    /// May be empty: nothing of it is ready.
    #[serde(default)]
    pub endpoints: Vec<ContainerEndpoint>,
}

/// Where a container is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerEndpoint {
    pub instance: InstanceId,
    pub node: NodeId,
}

/// A hostname with a path prefix, such as `hello.example.com/api`.
///
/// The hostname is in lower case, without port and trailing dot; the prefix starts with `/`, and matches whole segments:
/// `/api` matches `/api` and `/api/x`, but not `/apix`. The longest prefix wins.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RoutePattern {
    // Shared, because each route has a copy of what its release says.
    hostname: Arc<str>,
    path_prefix: Arc<str>,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a route: write a hostname and, if needed, a path, such as `hello.example.com/api`")]
pub struct InvalidRoute(String);

impl RoutePattern {
    pub fn hostname(&self) -> &str {
        &self.hostname
    }

    /// `/`, or a prefix without a trailing slash.
    pub fn path_prefix(&self) -> &str {
        &self.path_prefix
    }

    /// `APP.NAMESPACE.DOMAIN/`: the route that every app has.
    pub fn for_app(app: &AppName, namespace: &NamespaceName, domain: &str) -> Self {
        let hostname = format!("{app}.{namespace}.{domain}").to_ascii_lowercase().into();
        Self { hostname, path_prefix: "/".into() }
    }

    /// Whether a request's path lies under the prefix.
    pub fn matches_path(&self, path: &str) -> bool {
        if self.path_prefix() == "/" {
            return true;
        }
        path.strip_prefix(self.path_prefix()).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }
}

impl FromStr for RoutePattern {
    type Err = InvalidRoute;
    fn from_str(text: &str) -> Result<Self, InvalidRoute> {
        let invalid = || InvalidRoute(text.chars().take(300).collect());
        let (hostname, path) = match text.find('/') {
            Some(slash) => text.split_at(slash),
            None => (text, "/"),
        };
        let label = |label: &str| {
            (1..=63).contains(&label.len())
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
                && !label.starts_with('-')
                && !label.ends_with('-')
        };
        if hostname.len() > 253 || !hostname.split('.').all(label) {
            return Err(invalid());
        }
        let path_ok = path.len() <= 256
            && path.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'?' | b'#' | b'*' | b'\\'))
            && !path.contains("//")
            && !path.split('/').any(|segment| segment == "." || segment == "..");
        if !path_ok {
            return Err(invalid());
        }
        let trimmed = path.trim_end_matches('/');
        Ok(Self {
            hostname: hostname.to_ascii_lowercase().into(),
            path_prefix: if trimmed.is_empty() { "/".into() } else { trimmed.into() },
        })
    }
}

impl TryFrom<String> for RoutePattern {
    type Error = InvalidRoute;
    fn try_from(text: String) -> Result<Self, InvalidRoute> {
        text.parse()
    }
}

impl From<RoutePattern> for String {
    fn from(pattern: RoutePattern) -> String {
        pattern.to_string()
    }
}

impl fmt::Display for RoutePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.hostname, self.path_prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_matches_whole_segments() {
        let pattern: RoutePattern = "Hello.example.com/api/".parse().unwrap();
        assert_eq!(pattern.to_string(), "hello.example.com/api");
        assert!(pattern.matches_path("/api") && pattern.matches_path("/api/x"));
        assert!(!pattern.matches_path("/apix") && !pattern.matches_path("/"));
    }

    #[test]
    fn limits_of_before_and_for_workers_of_before_are_as_they_were() {
        let of_before = r#"{"namespace":"blue","requests_per_second":7,"egress_bytes_per_second":null}"#;
        let limit: RateLimit = serde_json::from_str(of_before).unwrap();
        assert_eq!(
            limit,
            RateLimit { requests_per_second: Some(7), ..RateLimit::of("blue".parse().unwrap()) }
        );
        assert_eq!(serde_json::to_string(&limit).unwrap(), of_before);
    }

    #[test]
    fn bad_routes_are_refused() {
        for bad in
            ["", "/", "a b.com", "*.example.com", "x.com:80", "x.com/../y", "x.com//y", "-x.com", "x..com"]
        {
            assert!(bad.parse::<RoutePattern>().is_err(), "{bad}");
        }
    }
}
