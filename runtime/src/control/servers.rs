//! Which of the equal servers of a control plane is asked: one, until it does not answer.

use std::sync::{Mutex, MutexGuard, PoisonError};

use reqwest::Url;

/// What the last answers have said of the servers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Heard {
    /// Where the one is that has answered, such as `10.0.0.1:7071`.
    pub from: String,
    /// Where all are, as it says. Empty: it is of a version that does not say it.
    pub servers: Vec<String>,
}

/// Never empty.
pub(super) struct Servers(Mutex<Known>);

struct Known {
    urls: Vec<Url>,
    at: usize,
}

impl Servers {
    pub(super) fn new(urls: Vec<Url>) -> Self {
        assert!(!urls.is_empty(), "there is no server to ask");
        Self(Mutex::new(Known { urls, at: 0 }))
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The one that is asked.
    pub(super) fn current(&self) -> Url {
        let known = self.lock();
        known.urls[known.at].clone()
    }

    pub(super) fn all(&self) -> Vec<Url> {
        self.lock().urls.clone()
    }

    /// `from` does not answer. Several calls may fail at once; together they move on by one.
    pub(super) fn move_on(&self, from: &Url) {
        let mut known = self.lock();
        if known.urls[known.at] == *from {
            known.at = (known.at + 1) % known.urls.len();
        }
    }

    /// From now on it is these. The one that is asked stays, if it is among them.
    pub(super) fn set(&self, urls: Vec<Url>) {
        if urls.is_empty() {
            return;
        }
        let mut known = self.lock();
        let current = &known.urls[known.at];
        let at = urls.iter().position(|url| url == current).unwrap_or(0);
        *known = Known { urls, at };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn urls(hosts: &[&str]) -> Vec<Url> {
        hosts.iter().map(|host| format!("https://{host}:7071").parse().unwrap()).collect()
    }

    #[test]
    fn calls_that_fail_together_move_on_by_one_and_around() {
        let all = urls(&["a", "b"]);
        let servers = Servers::new(all.clone());
        servers.move_on(&all[0]);
        servers.move_on(&all[0]);
        assert_eq!(servers.current(), all[1]);
        servers.move_on(&all[1]);
        assert_eq!(servers.current(), all[0]);
        let alone = Servers::new(urls(&["a"]));
        alone.move_on(&all[0]);
        assert_eq!(alone.current(), all[0]);
    }

    #[test]
    fn who_answers_is_asked_on_when_others_come_to_be_known() {
        let servers = Servers::new(urls(&["a", "b"]));
        servers.move_on(&urls(&["a"])[0]);
        servers.set(urls(&["c", "d", "b"]));
        assert_eq!(servers.current(), urls(&["b"])[0]);
        servers.set(Vec::new());
        assert_eq!(servers.all(), urls(&["c", "d", "b"]));
        servers.set(urls(&["e"]));
        assert_eq!(servers.current(), urls(&["e"])[0]);
    }
}
