//! Where a worker looks for the servers of its cluster.

use wharf_runtime::control::Heard;

use super::address::server_address;

/// Addresses that are kept of servers which were there once. Each that is tried in vain takes time.
const KEPT_MAX: usize = 8;

/// Each is `HOST:PORT`.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(default)]
pub(super) struct Servers {
    /// As somebody has said on the command line.
    #[serde(skip)]
    pub(super) given: Vec<String>,
    /// As servers have said since, those that were there last first.
    known: Vec<String>,
    /// What was given and known before others were given, none of which has answered yet.
    before: Vec<String>,
}

impl Servers {
    pub(super) fn given(given: Vec<String>) -> Self {
        Self { given, ..Self::default() }
    }

    /// All of them, in the order in which they are tried.
    pub(super) fn all(&self) -> Vec<String> {
        merged([&self.known, &self.given, &self.before])
    }

    /// Others are given. Those of before are no mistake until one of the new ones has answered.
    pub(super) fn replaced_by(self, given: Vec<String>) -> Self {
        if given == self.given {
            return self;
        }
        let mut before = self.all();
        before.truncate(KEPT_MAX);
        Self { given, known: Vec::new(), before }
    }

    /// One of those that were given has answered.
    pub(super) fn are_right(&mut self) {
        self.before.clear();
    }

    /// Takes in what an answer has said. False: it is what was known.
    pub(super) fn hear(&mut self, heard: &Heard) -> bool {
        let was = self.clone();
        if self.given.contains(&heard.from) {
            self.are_right();
        }
        // A server that does not say where they are, or says nonsense, takes nothing away.
        let said: Vec<String> = heard.servers.iter().filter_map(|it| server_address(it).ok()).collect();
        if !said.is_empty() {
            let most = said.len().max(KEPT_MAX);
            // One that is being started anew is there again before the others are gone.
            self.known = merged([&said, &self.known]);
            self.known.truncate(most);
        }
        *self != was
    }
}

/// The addresses of all lists, each once.
fn merged<const LISTS: usize>(lists: [&[String]; LISTS]) -> Vec<String> {
    let mut all: Vec<String> = Vec::new();
    for address in lists.into_iter().flatten() {
        if !all.contains(address) {
            all.push(address.clone());
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(addresses: &[&str]) -> Vec<String> {
        addresses.iter().map(|it| (*it).to_owned()).collect()
    }

    fn heard(from: &str, servers: &[&str]) -> Heard {
        Heard { from: from.to_owned(), servers: list(servers) }
    }

    #[test]
    fn servers_that_were_added_later_are_tried_before_those_that_were_given() {
        let mut servers = Servers::given(list(&["a:1"]));
        assert!(servers.hear(&heard("a:1", &["a:1", "b:1"])));
        assert!(!servers.hear(&heard("a:1", &["a:1", "b:1"])), "that is no news");
        assert_eq!(servers.all(), ["a:1", "b:1"]);
        // The first is gone, and then the second is being upgraded while a third one leads.
        assert!(servers.hear(&heard("b:1", &["b:1", "c:1"])));
        assert_eq!(servers.all(), ["b:1", "c:1", "a:1"]);
        assert!(!servers.hear(&heard("c:1", &[])), "of a version that does not say it");
        assert!(!servers.hear(&heard("c:1", &["nonsense:port"])));
    }

    #[test]
    fn there_is_an_end_to_what_is_kept_of_servers_that_are_gone() {
        let mut servers = Servers::given(list(&["a:1"]));
        for number in 1..100 {
            servers.hear(&heard("a:1", &[&format!("b:{number}")]));
        }
        assert_eq!(servers.all().len(), KEPT_MAX + 1);
        assert_eq!(servers.all()[0], "b:99");
        let many: Vec<String> = (1..20).map(|number| format!("c:{number}")).collect();
        servers.hear(&Heard { from: "a:1".to_owned(), servers: many.clone() });
        assert_eq!(servers.known, many, "those that are there all count");
    }

    #[test]
    fn those_of_before_stay_until_one_of_the_new_ones_has_answered() {
        let mut servers = Servers::given(list(&["a:1"]));
        servers.hear(&heard("a:1", &["a:1", "b:1"]));
        let mut servers = servers.replaced_by(list(&["wrong:1"]));
        assert_eq!(servers.all(), ["wrong:1", "a:1", "b:1"]);
        servers.hear(&heard("a:1", &["a:1", "b:1"]));
        assert_eq!(servers.all(), ["a:1", "b:1", "wrong:1"]);
        assert_eq!(servers.clone().replaced_by(list(&["wrong:1"])), servers, "they were given before");
        let mut servers = servers.replaced_by(list(&["c:1"]));
        servers.hear(&heard("c:1", &["c:1"]));
        assert_eq!(servers.all(), ["c:1"]);
    }
}
