//! Networks between the containers of a namespace: bridges, whose addresses the host reaches directly.

use std::collections::HashSet;
use std::fmt;

use bollard::models::NetworkCreateRequest;
use bollard::query_parameters::ListNetworksOptionsBuilder;
use wharf_types::{Digest, NamespaceName};

use crate::engine::{Engine, LONG, SHORT};
use crate::error::EngineError;
use crate::labels;

/// How much of a network's own name is in the engine's name for it.
const READABLE_MAX_CHARS: usize = 20;

/// What a network is called in the engine: letters, digits and dashes, at most 80.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NetworkName(String);

/// A network out of which a way leads, as an interface of the engine's machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bridge {
    /// Whose containers are in it.
    pub namespace: NamespaceName,
    pub interface: String,
}

impl Bridge {
    fn of(network_id: &str, namespace: NamespaceName) -> Option<Self> {
        Some(Self { namespace, interface: interface_of(network_id)? })
    }
}

/// What the engine calls the bridge of a network that it was given no name for.
fn interface_of(network_id: &str) -> Option<String> {
    Some(format!("br-{}", network_id.get(..12)?))
}

/// What containers of a network reach beyond their node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WayOut {
    /// Whatever their node reaches.
    Open,
    /// Nothing: the engine passes nothing on, and newer ones give them no route either.
    None,
}

#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    #[error(
        "the Docker engine has no subnet left for another network: remove networks that nobody uses, or give it more with `default-address-pools` in /etc/docker/daemon.json"
    )]
    NoSubnet,
    #[error("a network named {name} is there that belongs to somebody else: remove it")]
    NameTaken { name: String },
    #[error(transparent)]
    Engine(#[from] EngineError),
}

impl NetworkName {
    /// The name of a namespace's own network, or of one that it has beside it. Two names are never the same, however much of what they were
    /// made of cannot be in them. One with a way out is another network than one without, so that a container never gets the one for the
    /// other.
    pub(crate) fn of(
        platform: &str,
        namespace: &NamespaceName,
        network: Option<&str>,
        way_out: WayOut,
    ) -> Self {
        let whole = format!("{platform}\n{namespace}\n{}", network.map_or("", |it| it).len());
        // The length stands before it, so nothing that a network is called reads like this.
        let end = match way_out {
            WayOut::Open => "",
            WayOut::None => "\ninternal",
        };
        let digest = Digest::of(format!("{whole}\n{}{end}", network.unwrap_or_default()).as_bytes());
        let readable: String = network
            .unwrap_or_default()
            .chars()
            .filter(|c| c.is_ascii_alphanumeric())
            .take(READABLE_MAX_CHARS)
            .collect();
        let parts = ["wharf", namespace.as_str(), &readable, &digest.short()];
        Self(parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("-"))
    }
}

/// How long the host waits for an answer before it asks again who has an address of a bridge, in milliseconds; three times, and then nobody
/// has it.
const NEIGHBOUR_RETRY_MILLIS: &str = "50";

/// A container that takes the address of one that has just ended would be found only a second after somebody asked for that one: so long the
/// kernel takes to ask again. It takes root, and a bridge of this machine; without them it stays as it was.
async fn ask_again_soon(network_id: &str) {
    let Some(interface) = interface_of(network_id) else { return };
    let setting = format!("/proc/sys/net/ipv4/neigh/{interface}/retrans_time_ms");
    if let Err(error) = tokio::fs::write(&setting, NEIGHBOUR_RETRY_MILLIS).await {
        tracing::debug!("could not write to {setting}: {error}");
    }
}

impl fmt::Display for NetworkName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Engine {
    /// Makes a network of a namespace unless it is there. `network` None is the namespace's own.
    pub async fn ensure_network(
        &self,
        namespace: &NamespaceName,
        network: Option<&str>,
    ) -> Result<NetworkName, NetworkError> {
        self.ensure_network_with(namespace, network, WayOut::Open).await
    }

    /// Makes a network of a namespace out of which no way leads, unless it is there. The host reaches its containers all the same.
    pub async fn ensure_internal_network(
        &self,
        namespace: &NamespaceName,
        network: &str,
    ) -> Result<NetworkName, NetworkError> {
        self.ensure_network_with(namespace, Some(network), WayOut::None).await
    }

    async fn ensure_network_with(
        &self,
        namespace: &NamespaceName,
        network: Option<&str>,
        way_out: WayOut,
    ) -> Result<NetworkName, NetworkError> {
        let platform = &self.settings.platform;
        let name = NetworkName::of(platform, namespace, network, way_out);
        let labels = labels::of_network(platform, namespace, network, way_out);
        let is_internal = way_out == WayOut::None;
        let _one_at_a_time = self.making_network.lock().await;
        let options = ListNetworksOptionsBuilder::new()
            .filters(&std::collections::HashMap::from([("name", vec![name.0.as_str()])]))
            .build();
        let found = self.call("list networks", SHORT, self.docker.list_networks(Some(options))).await?;
        // The engine finds every name that this one is a part of.
        if let Some(found) = found.iter().find(|found| found.name.as_ref() == Some(&name.0)) {
            // Names are cut, so two networks might have one; what is written on it is whole.
            if found.labels != Some(labels) || found.internal.unwrap_or(false) != is_internal {
                return Err(NetworkError::NameTaken { name: name.0 });
            }
            ask_again_soon(found.id.as_deref().unwrap_or_default()).await;
            return Ok(name);
        }
        let request = NetworkCreateRequest {
            name: name.0.clone(),
            driver: Some("bridge".to_owned()),
            internal: Some(is_internal),
            labels: Some(labels),
            ..NetworkCreateRequest::default()
        };
        match self.call("make a network", LONG, self.docker.create_network(request)).await {
            Ok(made) => {
                ask_again_soon(&made.id).await;
                Ok(name)
            }
            Err(EngineError::Refused { message, .. } | EngineError::NotFound { message, .. })
                if message.contains("address pool") =>
            {
                Err(NetworkError::NoSubnet)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// The networks of this platform out of which a way leads.
    pub async fn bridges(&self) -> Result<Vec<Bridge>, EngineError> {
        let options = ListNetworksOptionsBuilder::new().filters(&self.ours()).build();
        let found = self.call("list networks", SHORT, self.docker.list_networks(Some(options))).await?;
        let open = found.into_iter().filter(|network| !network.internal.unwrap_or(false));
        let bridges = open.filter_map(|network| {
            let namespace = labels::namespace_of(network.labels.as_ref()?)?;
            Bridge::of(network.id.as_deref()?, namespace)
        });
        Ok(bridges.collect())
    }

    /// Which platform and node this is, as it is written on all that it has made.
    pub fn platform(&self) -> &str {
        &self.settings.platform
    }

    /// Removes the networks that nobody needs and no container is in; returns how many.
    pub async fn remove_unwanted_networks(
        &self,
        wanted: &HashSet<NetworkName>,
    ) -> Result<usize, EngineError> {
        let options = ListNetworksOptionsBuilder::new().filters(&self.ours()).build();
        let found = self.call("list networks", SHORT, self.docker.list_networks(Some(options))).await?;
        let unwanted = found
            .into_iter()
            .filter_map(|network| network.name)
            .filter(|name| !wanted.contains(&NetworkName(name.clone())));
        let mut removed = 0;
        for name in unwanted {
            match self.call("remove a network", LONG, self.docker.remove_network(&name)).await {
                Ok(()) => removed += 1,
                // 403 and 409: a container is in it.
                Err(EngineError::NotFound { .. } | EngineError::Refused { status: 403 | 409, .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(removed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(namespace: &str, network: Option<&str>) -> String {
        NetworkName::of("platform", &namespace.parse().unwrap(), network, WayOut::Open).to_string()
    }

    fn internal(namespace: &str, network: &str) -> String {
        NetworkName::of("platform", &namespace.parse().unwrap(), Some(network), WayOut::None).to_string()
    }

    #[test]
    fn a_network_has_a_name_that_the_engine_takes() {
        let longest = "n".repeat(40);
        for network in
            [None, Some("back-end"), Some("ünïcode 网络"), Some("../../etc"), Some(&*"x".repeat(10_000))]
        {
            let name = name(&longest, network);
            assert!(name.len() <= 80, "{name}");
            assert!(name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-'), "{name}");
        }
        assert!(name("a", Some("back-end")).starts_with("wharf-a-backend-"));
    }

    #[test]
    fn a_bridge_is_known_by_what_the_engine_calls_it() {
        let namespace: NamespaceName = "blue".parse().unwrap();
        let labels = labels::of_network("platform", &namespace, Some("back"), WayOut::Open);
        assert_eq!(labels::namespace_of(&labels), Some(namespace.clone()));
        let bridge = Bridge::of(&"0123456789abcdef".repeat(4), namespace.clone()).unwrap();
        assert_eq!(bridge, Bridge { namespace: namespace.clone(), interface: "br-0123456789ab".to_owned() });
        assert_eq!(Bridge::of("0123", namespace), None);
    }

    #[test]
    fn two_networks_never_have_one_name() {
        let names = [
            name("a", None),
            name("a", Some("b")),
            name("a", Some("b ")),
            name("a-b", None),
            name("a", Some("ü")),
            name("a", Some("ö")),
            name("a", Some("b\ninternal")),
            internal("a", "b"),
            internal("a", ""),
        ];
        assert_eq!(names.iter().collect::<HashSet<_>>().len(), names.len());
        let other = NetworkName::of("another", &"a".parse().unwrap(), None, WayOut::Open).to_string();
        assert_ne!(other, names[0]);
    }
}
