//! Which apps there are in each namespace for whoever calls them by name, and who may reach which: a function of the route table.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use wharf_types::route::{ContainerRoute, RouteTable};
use wharf_types::spec::AppSpec;
use wharf_types::{AppName, NamespaceName};

use crate::container::names::internal;

/// The port that leads to an app's HTTP, wherever that listens.
pub(crate) const HTTP_PORT: u16 = 80;
/// What the namespace's own network is called here.
const OWN_NETWORK: &str = "";

/// The apps of one route table.
#[derive(Debug, Default)]
pub(crate) struct Directory {
    namespaces: HashMap<NamespaceName, BTreeMap<AppName, Listed>>,
}

#[derive(Debug, Default)]
struct Listed {
    has_http: bool,
    /// None: it is no container, or one with the host's network.
    container: Option<Arc<ContainerRoute>>,
}

/// Who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Asker {
    pub(crate) namespace: NamespaceName,
    pub(crate) who: Who,
    /// What it calls apps by beside their own names. Of guests nothing: they say which app they mean.
    pub(crate) names: Arc<BTreeMap<String, AppName>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Who {
    /// A guest, which a grant has to name what it reaches.
    Guest,
    /// A container in these networks of its namespace.
    Container(BTreeSet<String>),
}

/// What is behind a port of an app.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// Requests, by the app's routes.
    Http,
    /// The containers' own port.
    Container(Arc<ContainerRoute>),
    Nothing,
}

/// What a name of the DNS means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Meaning {
    App(AppName),
    /// It would be an app's, and there is none.
    Nobody,
    /// It is not ours.
    Elsewhere,
}

/// The networks that a container is in, as its spec has them.
pub(crate) fn networks_of(spec: &BTreeMap<String, Vec<String>>) -> BTreeSet<String> {
    if spec.is_empty() { BTreeSet::from([OWN_NETWORK.to_owned()]) } else { spec.keys().cloned().collect() }
}

impl Directory {
    pub(crate) fn of(routes: &RouteTable) -> Self {
        let mut namespaces: HashMap<NamespaceName, BTreeMap<AppName, Listed>> = HashMap::new();
        for route in &routes.routes {
            let apps = namespaces.entry(route.namespace.clone()).or_default();
            apps.entry(route.app.clone()).or_default().has_http = true;
        }
        for route in &routes.containers {
            let apps = namespaces.entry(route.namespace.clone()).or_default();
            apps.entry(route.app.clone()).or_default().container = Some(route.clone());
        }
        Self { namespaces }
    }

    pub(crate) fn has(&self, namespace: &NamespaceName, app: &AppName) -> bool {
        self.namespaces.get(namespace).is_some_and(|apps| apps.contains_key(app))
    }

    /// What a name means that a container asks for. Only names of one label are apps' below `internal`: clouds have names of several there.
    pub(crate) fn meaning(&self, asker: &Asker, name: &str) -> Meaning {
        let name = name.strip_suffix('.').unwrap_or(name);
        let below = internal(name).filter(|label| !label.contains('.'));
        match self.named(asker, below.unwrap_or(name)) {
            Some(app) => Meaning::App(app.clone()),
            // Its own name for an app is no name of the world, also while there is no such app.
            None if below.is_some() || AppSpec::named(&asker.names, name).is_some() => Meaning::Nobody,
            None => Meaning::Elsewhere,
        }
    }

    /// The app of a name: the one that the asker calls so, the one that is called so, or one that has the name in a network which the asker is in as well.
    pub(crate) fn named(&self, asker: &Asker, name: &str) -> Option<&AppName> {
        let apps = self.namespaces.get(&asker.namespace)?;
        if let Some(meant) = AppSpec::named(&asker.names, name) {
            let (app, listed) = apps.get_key_value(meant)?;
            return asker.reaches(listed).then_some(app);
        }
        let own = apps.iter().find(|(app, _)| app.as_str().eq_ignore_ascii_case(name));
        match own {
            Some((app, listed)) if asker.reaches(listed) => return Some(app),
            // To a guest, the name of an app means that one or nothing.
            Some(_) if asker.who == Who::Guest => return None,
            _ => {}
        }
        let has_name =
            |listed: &&Listed| listed.container.as_ref().is_some_and(|it| asker.knows_as(it, name));
        apps.iter().find(|(_, listed)| has_name(listed)).map(|(app, _)| app)
    }

    /// What is behind a port of an app for whoever asks.
    pub(crate) fn way(&self, asker: &Asker, app: &AppName, port: u16) -> Way {
        let listed = self.namespaces.get(&asker.namespace).and_then(|apps| apps.get(app));
        match listed.filter(|listed| asker.reaches(listed)) {
            // A guest's requests do not come as connections.
            Some(listed) if listed.has_http && port == HTTP_PORT && asker.who != Who::Guest => Way::Http,
            Some(Listed { container: Some(container), .. }) => Way::Container(container.clone()),
            _ => Way::Nothing,
        }
    }

    /// The containers of an app, where whoever asks may send to their own ports.
    pub(crate) fn containers_of(&self, asker: &Asker, app: &AppName) -> Option<Arc<ContainerRoute>> {
        let listed = self.namespaces.get(&asker.namespace)?.get(app)?;
        listed.container.clone().filter(|_| asker.reaches(listed))
    }
}

impl Asker {
    pub(crate) fn guest(namespace: &NamespaceName) -> Self {
        Self { namespace: namespace.clone(), who: Who::Guest, names: Arc::default() }
    }

    /// Whether the two are containers that see each other on one node, or one of them is no container.
    pub(crate) fn shares_network_with(&self, other: &Self) -> bool {
        match (&self.who, &other.who) {
            (Who::Container(ours), Who::Container(theirs)) => !ours.is_disjoint(theirs),
            _ => true,
        }
    }

    /// A guest reaches what it is granted, so the containers of every network; a container those of its own, as on one node. What is no container is in no
    /// network, and is there for all.
    fn reaches(&self, listed: &Listed) -> bool {
        match (&listed.container, &self.who) {
            (Some(_), Who::Guest) => true,
            (None, Who::Guest) => false,
            (None, Who::Container(_)) => listed.has_http,
            (Some(container), Who::Container(networks)) => {
                !networks.is_disjoint(&networks_of(&container.networks))
            }
        }
    }

    /// Whether a container has this further name for the asker. To a guest, one with dots is a name of the DNS and nobody's to take, and one that is apart
    /// has none.
    fn knows_as(&self, container: &ContainerRoute, name: &str) -> bool {
        container.networks.iter().any(|(network, names)| {
            let is_shared = match &self.who {
                Who::Guest => !container.apart && !name.contains('.'),
                Who::Container(networks) => networks.contains(network),
            };
            is_shared && names.iter().any(|known| known.eq_ignore_ascii_case(name))
        })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use wharf_types::route::Route;

    use super::*;

    fn namespace(name: &str) -> NamespaceName {
        name.parse().unwrap()
    }

    fn app(name: &str) -> AppName {
        name.parse().unwrap()
    }

    pub(crate) fn container(name: &str, networks: &[(&str, &[&str])]) -> Arc<ContainerRoute> {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        Arc::new(ContainerRoute {
            namespace: namespace("ours"),
            app: app(name),
            networks: networks.iter().map(|(network, of)| ((*network).to_owned(), names(of))).collect(),
            apart: false,
            endpoints: Vec::new(),
        })
    }

    pub(crate) fn http(name: &str) -> Arc<Route> {
        Arc::new(Route {
            pattern: format!("{name}.ours.localhost").parse().unwrap(),
            namespace: namespace("ours"),
            app: app(name),
            endpoints: Vec::new(),
            stopped: false,
            counted: false,
            wakes: false,
            canary: None,
        })
    }

    pub(crate) fn table() -> RouteTable {
        RouteTable {
            generation: 1,
            routes: vec![http("hello"), http("site")],
            containers: vec![
                container("redis", &[]),
                container("site", &[("front", &[]), ("back", &["api.example.com"])]),
                container("db", &[("back", &["Database", "redis", "site"])]),
            ],
            ..RouteTable::default()
        }
    }

    pub(crate) fn of(namespace_name: &str, networks: &[&str]) -> Asker {
        let networks = networks.iter().map(|network| (*network).to_owned()).collect();
        Asker { namespace: namespace(namespace_name), who: Who::Container(networks), names: Arc::default() }
    }

    fn guest() -> Asker {
        Asker::guest(&namespace("ours"))
    }

    #[test]
    fn a_name_leads_to_the_app_of_that_name_and_then_to_one_that_has_it_besides() {
        let directory = Directory::of(&table());
        let means = |asker: &Asker, name: &str| directory.meaning(asker, name);
        let (own, back) = (of("ours", &[""]), of("ours", &["back"]));
        for name in ["redis", "redis.internal", "REDIS.internal.", "redis.INTERNAL", "redis."] {
            assert_eq!(means(&own, name), Meaning::App(app("redis")), "{name}");
        }
        assert_eq!(means(&back, "database.internal"), Meaning::App(app("db")));
        assert_eq!(means(&back, "api.example.com"), Meaning::App(app("site")));
        // An app that is not in its networks has not taken the name there; one that is has it.
        assert_eq!(means(&back, "redis"), Meaning::App(app("db")));
        assert_eq!(means(&back, "site"), Meaning::App(app("site")));
        assert_eq!(means(&own, "database"), Meaning::Elsewhere);
        assert_eq!(means(&own, "database.internal"), Meaning::Nobody);
        assert_eq!(means(&own, "metadata.google.internal"), Meaning::Elsewhere);
        assert_eq!(means(&own, "internal"), Meaning::Elsewhere);
        assert_eq!(means(&of("theirs", &["", "back"]), "redis.internal"), Meaning::Nobody);
    }

    #[test]
    fn containers_reach_those_that_they_share_a_network_with_and_what_is_in_none() {
        let directory = Directory::of(&table());
        let way = |asker: &Asker, name: &str, port| directory.way(asker, &app(name), port);
        let (own, back) = (of("ours", &[""]), of("ours", &["back"]));
        assert!(matches!(way(&own, "redis", 6379), Way::Container(found) if found.app == app("redis")));
        assert!(matches!(way(&own, "redis", 80), Way::Container(_)), "it has no HTTP, but a port 80");
        assert_eq!(way(&own, "hello", 80), Way::Http);
        assert_eq!(way(&own, "hello", 8080), Way::Nothing);
        assert_eq!(way(&back, "site", 80), Way::Http);
        assert!(matches!(way(&back, "site", 8000), Way::Container(_)));
        for (asker, name) in [(&own, "db"), (&own, "site"), (&back, "redis"), (&own, "nobody")] {
            assert_eq!(way(asker, name, 80), Way::Nothing, "{name}");
        }
        // Port 80 of a container is its own where no request is meant.
        let found = |asker: &Asker, name: &str| directory.containers_of(asker, &app(name)).is_some();
        assert!(found(&own, "redis") && found(&back, "site") && found(&back, "db"));
        assert!(!found(&own, "hello") && !found(&own, "db") && !found(&back, "redis"));
        let stranger = of("theirs", &["", "back", "front"]);
        assert!(["hello", "redis", "site", "db"].iter().all(|name| !found(&stranger, name)));
        assert!(["hello", "redis", "site", "db"].iter().all(|name| way(&stranger, name, 80) == Way::Nothing));
    }

    #[test]
    fn a_name_of_the_askers_own_goes_before_an_app_that_is_called_so() {
        let mut table = table();
        table.routes.push(http("a-hello"));
        table.containers.push(container("a-db", &[("a", &["db", "cache"])]));
        let directory = Directory::of(&table);
        let names = [("hello", "a-hello"), ("db", "a-db"), ("redis", "a-redis"), ("site", "db")];
        let names = names.map(|(name, of)| (name.to_owned(), app(of)));
        let asker = Asker { names: Arc::new(names.into()), ..of("ours", &["a"]) };
        let means = |name: &str| directory.meaning(&asker, name);
        assert_eq!(means("hello.internal"), Meaning::App(app("a-hello")));
        assert_eq!(means("HELLO"), Meaning::App(app("a-hello")));
        assert_eq!(means("db"), Meaning::App(app("a-db")));
        assert_eq!(means("cache"), Meaning::App(app("a-db")), "as it is called in the network of both");
        // It is not there, or in no network of the asker: nobody else is meant.
        for name in ["redis", "redis.internal", "site", "site.internal."] {
            assert_eq!(means(name), Meaning::Nobody, "{name}");
        }
        assert_eq!(means("example.com"), Meaning::Elsewhere);
        // Who has no such names is not led away by those of others.
        assert_eq!(directory.meaning(&of("ours", &["back"]), "hello.internal"), Meaning::App(app("hello")));
    }

    #[test]
    fn a_guest_does_not_know_the_further_names_of_what_is_apart() {
        let apart = |it: Arc<ContainerRoute>| Arc::new(ContainerRoute { apart: true, ..(*it).clone() });
        let containers = vec![
            apart(container("a-db", &[("a", &["database", "cache"])])),
            container("db", &[("back", &["database"])]),
        ];
        let directory = Directory::of(&RouteTable { containers, ..RouteTable::default() });
        let named = |name: &str| directory.named(&guest(), name).map(AppName::as_str);
        assert_eq!((named("database"), named("cache"), named("a-db")), (Some("db"), None, Some("a-db")));
        let near = of("ours", &["a"]);
        assert_eq!(directory.named(&near, "database").map(AppName::as_str), Some("a-db"));
    }

    #[test]
    fn a_guest_knows_the_containers_of_every_network_by_names_without_dots() {
        let directory = Directory::of(&table());
        let named = |name: &str| directory.named(&guest(), name).map(AppName::as_str);
        assert_eq!(
            (named("redis"), named("database"), named("site")),
            (Some("redis"), Some("db"), Some("site"))
        );
        assert_eq!((named("api.example.com"), named("hello"), named("nobody")), (None, None, None));
        assert!(matches!(directory.way(&guest(), &app("db"), 80), Way::Container(_)));
        assert_eq!(directory.way(&guest(), &app("hello"), 80), Way::Nothing);
    }
}
