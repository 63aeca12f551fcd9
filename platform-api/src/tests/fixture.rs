//! A control plane in a directory of its own, and requests to it.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{Method, Request};
use axum::response::Response;
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio_util::sync::{CancellationToken, DropGuard};
use tower::ServiceExt;
use wharf_types::{Digest, Timestamp};

use super::database;
use crate::authority::{Authorities, Lost};
use crate::context::{Context, Joining};
use crate::{Config, ControlPlane};

pub(crate) const LIMIT: Duration = Duration::from_secs(20);

pub(crate) struct Platform {
    pub(crate) router: Router,
    pub(crate) context: Arc<Context>,
    pub(crate) admin: String,
    pub(crate) node_token: String,
    pub(crate) dir: Arc<TempDir>,
    _control: ControlPlane,
    _reconciler: DropGuard,
}

pub(crate) async fn config(dir: &TempDir) -> Config {
    Config {
        data_dir: dir.path().join("data"),
        database: database::of_dir(dir.path()).await,
        artifacts: Default::default(),
        address: "http://127.0.0.1:7070".to_owned(),
        domain: "localhost".to_owned(),
        http_url: "http://127.0.0.1:8080".to_owned(),
        secret_keys: Default::default(),
        image_archive_max_bytes: crate::IMAGE_ARCHIVE_USUAL_BYTES,
        platform_ports: vec![7070, 8080],
        speaks: wharf_types::protocol::SPOKEN,
    }
}

impl Platform {
    pub(crate) async fn start() -> Self {
        Self::start_in(Arc::new(tempfile::tempdir().unwrap())).await
    }

    pub(crate) async fn start_in(dir: Arc<TempDir>) -> Self {
        let config = config(&dir).await;
        let platform = Self::start_with(config, dir).await;
        platform.leads().await;
        platform
    }

    /// Waits until it leads.
    pub(crate) async fn leads(&self) -> u64 {
        eventually("it leads", async || self.context.epoch().ok()).await
    }

    /// Another server on the database of the first one. None: its database is for one alone.
    pub(crate) async fn start_beside(&self) -> Option<Self> {
        let config = Config { data_dir: self.dir.path().join("beside"), ..self.context.config.clone() };
        (config.database != crate::Database::DataDir).then_some(())?;
        Some(Self::start_with(config, self.dir.clone()).await)
    }

    pub(crate) async fn start_with(config: Config, dir: Arc<TempDir>) -> Self {
        // An earlier process may still be letting go of the lock.
        let control =
            eventually("the data directory is free", async || ControlPlane::open(config.clone()).await.ok())
                .await;
        let shutdown = CancellationToken::new();
        control.spawn_leader(shutdown.clone());
        control.spawn_follower(shutdown.clone());
        let admin = std::fs::read_to_string(control.admin_token_file()).unwrap().trim().to_owned();
        Self {
            router: control.router(),
            context: control.context.clone(),
            admin,
            node_token: control.node_token().to_owned(),
            dir,
            _control: control,
            _reconciler: shutdown.drop_guard(),
        }
    }

    pub(crate) async fn authorities(&self) -> Arc<Authorities> {
        let (keys, dir) = (self.context.secret_keys.keyring(), &self.context.config.data_dir);
        let now = Timestamp::now();
        Arc::new(Authorities::open(&self.context.store, &keys, dir, Lost::Fail, now).await.unwrap())
    }

    /// Hosts may join.
    pub(crate) async fn takes_workers(&self) {
        let authorities = self.authorities().await;
        let keeping = authorities.clone().keep(self.context.clone(), self.context.shutdown.clone());
        tokio::spawn(keeping);
        let joining = Joining { authorities, address: "10.0.0.1:7071".into() };
        assert!(self.context.joining.set(joining).is_ok());
    }

    /// What `kill -9` does, as far as one process can: nothing is flushed, finished or told.
    pub(crate) fn crash(self) -> Arc<TempDir> {
        self.dir.clone()
    }

    pub(crate) async fn send(&self, request: Request<Body>) -> Reply {
        let response = self.router.clone().oneshot(request).await.unwrap();
        let status = response.status().as_u16();
        let headers = response.headers().clone();
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        let json = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
        Reply { status, headers, json }
    }

    pub(crate) async fn call(&self, method: Method, path: &str, body: Value) -> Reply {
        self.call_as(&self.admin, method, path, body).await
    }

    pub(crate) async fn call_as(&self, token: &str, method: Method, path: &str, body: Value) -> Reply {
        let body = if body.is_null() { Body::empty() } else { Body::from(body.to_string()) };
        self.send(request(token, method, path).body(body).unwrap()).await
    }

    pub(crate) async fn get(&self, path: &str) -> Value {
        let reply = self.call(Method::GET, path, Value::Null).await;
        assert_eq!(reply.status, 200, "{path}: {}", reply.json);
        reply.json
    }

    pub(crate) async fn open_stream(&self, path: &str, headers: &[(&str, &str)]) -> Response {
        let mut request = request(&self.admin, Method::GET, path).header("accept", "text/event-stream");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.router.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap()
    }

    pub(crate) async fn push(&self, namespace: &str, bytes: &[u8]) -> Reply {
        self.push_as(namespace, &Digest::of(bytes).to_string(), bytes).await
    }

    pub(crate) async fn push_files(&self, archive: &[u8]) -> Reply {
        self.upload(&format!("/v1/namespaces/default/files/{}", Digest::of(archive)), archive).await
    }

    pub(crate) async fn push_as(&self, namespace: &str, digest: &str, bytes: &[u8]) -> Reply {
        self.upload(&format!("/v1/namespaces/{namespace}/artifacts/{digest}"), bytes).await
    }

    async fn upload(&self, path: &str, bytes: &[u8]) -> Reply {
        let request = request(&self.admin, Method::PUT, path).header("content-length", bytes.len());
        self.send(request.body(Body::from(bytes.to_vec())).unwrap()).await
    }

    /// Pushes an artifact and makes a release of it.
    pub(crate) async fn deploy(&self, app: &str, artifact: &[u8], spec: Value) -> Reply {
        self.push("default", artifact).await;
        let body = json!({"artifact": Digest::of(artifact), "spec": spec});
        self.call(Method::POST, &format!("/v1/namespaces/default/apps/{app}/releases"), body).await
    }

    /// Waits until the rollout that a reply speaks of has served or failed.
    pub(crate) async fn rollout(&self, app: &str, deployed: &Value) -> Value {
        let id = deployed["rollout"].as_str().unwrap();
        self.get(&format!("/v1/namespaces/default/apps/{app}/rollouts/{id}?wait=20s")).await
    }

    pub(crate) async fn app(&self, app: &str) -> Value {
        self.get(&format!("/v1/namespaces/default/apps/{app}")).await
    }
}

pub(crate) fn request(token: &str, method: Method, path: &str) -> axum::http::request::Builder {
    Request::builder().method(method).uri(path).header("authorization", format!("Bearer {token}"))
}

pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: axum::http::HeaderMap,
    pub(crate) json: Value,
}

impl Reply {
    /// The reply is a problem of this status and code, whose detail contains all of `words`.
    #[track_caller]
    pub(crate) fn refuses(&self, status: u16, code: &str, words: &[&str]) {
        let detail = self.json["detail"].as_str().unwrap_or_default();
        assert_eq!((self.status, self.json["code"].as_str()), (status, Some(code)), "{}", self.json);
        assert_eq!(self.headers["content-type"], "application/problem+json");
        assert_eq!(self.json["status"], status);
        for word in words {
            assert!(detail.contains(word), "`{word}` is not in: {detail}");
        }
    }

    #[track_caller]
    pub(crate) fn is(self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", self.json);
        self.json
    }
}

/// An HTTP component; each number makes another one.
pub(crate) fn component(number: u32) -> Vec<u8> {
    let text = format!(
        r#"(component
            (import "wasi:keyvalue/store@0.2.0-draft" (instance))
            (instance $handler)
            (export "wasi:http/incoming-handler@0.2.{number}" (instance $handler)))"#
    );
    wat::parse_str(text).unwrap()
}

/// A spec whose monitor window does not hold tests up.
pub(crate) fn quick() -> Value {
    json!({"update": {"monitor": "20ms"}})
}

/// Waits until there is a value.
pub(crate) async fn eventually<T, F: Future<Output = Option<T>>>(
    what: &str,
    mut look: impl FnMut() -> F,
) -> T {
    let waiting = async {
        loop {
            if let Some(value) = look().await {
                return value;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    match tokio::time::timeout(LIMIT, waiting).await {
        Ok(value) => value,
        Err(_) => panic!("waited in vain until {what}"),
    }
}
