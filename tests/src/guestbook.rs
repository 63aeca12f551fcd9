//! The example `guestbook`, which keeps its entries in the key-value store: what it says to have written must be there ever after.

use std::time::Duration;

use http::header::{CONTENT_LENGTH, HOST};
use http::{Method, Request};

use crate::{Client, Reply, full};

/// What takes longer was not acknowledged.
const PATIENCE: Duration = Duration::from_secs(5);

/// The app of that name in the default namespace, at a front door.
#[derive(Clone, Debug)]
pub struct Guestbook(Client);

impl Guestbook {
    /// For a manifest: ready whether the store answers or not.
    pub const MANIFEST: &'static str = "[scale]\nreplicas = 2\n[http]\nhealth = { path = \"/healthz\" }\n";

    pub fn at(door: &Client) -> Self {
        Self(door.clone())
    }

    /// Makes an entry. Returns its number, which no other entry has, if it was acknowledged.
    pub async fn sign(&self) -> Option<u64> {
        let reply = self.send(Method::POST, "name=somebody&message=something").await?;
        reply.text().strip_prefix("entry ")?.strip_suffix(" is written\n")?.parse().ok()
    }

    /// How many entries there are. None: it does not say.
    pub async fn entries(&self) -> Option<u64> {
        let page = self.send(Method::GET, "").await?.text();
        let (_, counted) = page.split_once("Entries: ")?;
        counted.split_once('.')?.0.parse().ok()
    }

    async fn send(&self, method: Method, form: &'static str) -> Option<Reply> {
        let request = Request::builder().method(method).uri("/").header(HOST, "guestbook.default.localhost");
        let request = request.header(CONTENT_LENGTH, form.len()).body(full(form)).unwrap();
        tokio::time::timeout(PATIENCE, self.0.send(request)).await.ok()?.ok()
    }
}
