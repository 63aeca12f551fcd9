//! Services and Ingresses.

use wharf_compose::keys::Key;
use wharf_compose::keys::Kind::{Any, Bool, Int, List, Table, Text, TextTable, Texts, Word};
use wharf_compose::keys::Support;
use wharf_compose::keys::Support::{Refused, Translated};

const NO_ADDRESSES: Support =
    Translated("addresses are chosen by the platform; the app is reached by its names");
const SPREAD: Support = Translated("requests and connections are spread over the instances by the platform");

pub(super) const SERVICE: &[Key] = &[
    Key::new("spec", Table),
    Key::new("spec.type", Word(&["ClusterIP", "NodePort", "LoadBalancer", "ExternalName"])),
    Key::new("spec.selector", TextTable),
    Key::new("spec.ports", List),
    Key::new("spec.ports.*", Table),
    Key::new("spec.ports.*.name", Text),
    Key::new("spec.ports.*.protocol", Word(&["TCP", "UDP", "SCTP"])),
    Key::new("spec.ports.*.appProtocol", Text),
    Key::new("spec.ports.*.port", Int),
    Key::new("spec.ports.*.targetPort", Text),
    Key::new("spec.ports.*.nodePort", Int),
    Key::new("spec.clusterIP", Text),
    Key::new("spec.clusterIPs", Texts).both(NO_ADDRESSES),
    Key::new("spec.ipFamilies", Texts).both(NO_ADDRESSES),
    Key::new("spec.ipFamilyPolicy", Text).both(NO_ADDRESSES),
    Key::new("spec.externalIPs", Texts)
        .both(Refused("public ports are at the addresses of the front door; leave it out")),
    Key::new("spec.externalName", Text)
        .both(Refused("a name stands for apps only; give those who call it the other name instead")),
    Key::new("spec.externalTrafficPolicy", Text).both(SPREAD),
    Key::new("spec.internalTrafficPolicy", Text).both(SPREAD),
    Key::new("spec.trafficDistribution", Text).both(SPREAD),
    Key::new("spec.healthCheckNodePort", Int).both(Translated("the front door needs none")),
    Key::new("spec.loadBalancerIP", Text).both(NO_ADDRESSES),
    Key::new("spec.loadBalancerClass", Text)
        .both(Translated("the front door takes what comes; there are no classes of it")),
    Key::new("spec.loadBalancerSourceRanges", Texts).both(Refused(
        "the front door turns nobody away by address; let a firewall before it do so, and leave it out",
    )),
    Key::new("spec.allocateLoadBalancerNodePorts", Bool)
        .both(Translated("there are no ports but those that are written")),
    Key::new("spec.publishNotReadyAddresses", Bool)
        .both(Refused("nobody is led to an instance that is not ready; leave it out")),
    Key::new("spec.sessionAffinity", Word(&["None", "ClientIP"])),
    Key::new("spec.sessionAffinityConfig", Any).both(Translated("it is about `sessionAffinity` only")),
];

pub(super) const INGRESS: &[Key] = &[
    Key::new("metadata.annotations", TextTable),
    Key::new("spec", Table),
    Key::new("spec.ingressClassName", Text).both(Translated("there is one front door, and no classes of it")),
    Key::new("spec.defaultBackend", Any).both(Refused(
        "a route has a hostname, and what has none is answered by the front door; write rules",
    )),
    Key::new("spec.tls", List),
    Key::new("spec.tls.*", Any).both(Refused(
        "the front door takes HTTP only; let something before it end TLS, and leave `tls` out",
    )),
    Key::new("spec.rules", List),
    Key::new("spec.rules.*", Table),
    Key::new("spec.rules.*.host", Text),
    Key::new("spec.rules.*.http", Table),
    Key::new("spec.rules.*.http.paths", List),
    Key::new("spec.rules.*.http.paths.*", Table),
    Key::new("spec.rules.*.http.paths.*.path", Text),
    Key::new("spec.rules.*.http.paths.*.pathType", Word(&["Prefix", "Exact", "ImplementationSpecific"])),
    Key::new("spec.rules.*.http.paths.*.backend", Table),
    Key::new("spec.rules.*.http.paths.*.backend.resource", Any)
        .both(Refused("a route leads to an app; name a Service")),
    Key::new("spec.rules.*.http.paths.*.backend.service", Table),
    Key::new("spec.rules.*.http.paths.*.backend.service.name", Text),
    Key::new("spec.rules.*.http.paths.*.backend.service.port", Table),
    Key::new("spec.rules.*.http.paths.*.backend.service.port.name", Text),
    Key::new("spec.rules.*.http.paths.*.backend.service.port.number", Int),
];
