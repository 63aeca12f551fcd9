//! A registry that does as it is told.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use futures::StreamExt as _;
use serde_json::json;
use wharf_types::Digest;

use crate::archive::Image;

const MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";

pub(crate) struct Registry {
    pub(crate) address: SocketAddr,
    shared: Arc<Mutex<Shared>>,
}

#[derive(Default)]
struct Shared {
    /// By path below the repository: manifests by tag and digest, and blobs.
    content: HashMap<String, (&'static str, Vec<u8>)>,
    /// What `Authorization` must be.
    authorization: Option<String>,
    /// Every blob ends after so many octets, and nothing more comes.
    stalls_after: Option<usize>,
    /// Everything is answered with this.
    fails: Option<(StatusCode, &'static str)>,
}

impl Registry {
    pub(crate) async fn start() -> Self {
        let shared = Arc::<Mutex<Shared>>::default();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new().fallback(answer).with_state(shared.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { address, shared }
    }

    pub(crate) fn name(&self, tag: &str) -> String {
        format!("{}/team/app:{tag}", self.address)
    }

    /// Offers images as one, each for its platform, and returns the digest of the whole.
    pub(crate) fn push(&self, tag: &str, images: &[Image]) -> Digest {
        let manifests: Vec<(&str, Vec<u8>)> =
            images.iter().map(|image| (image.architecture, self.push_image(image))).collect();
        if let [(_, manifest)] = manifests.as_slice() {
            return self.put_manifest(tag, MANIFEST, manifest.clone());
        }
        let entries: Vec<_> = manifests
            .iter()
            .map(|(architecture, manifest)| {
                json!({
                    "mediaType": MANIFEST,
                    "size": manifest.len(),
                    "digest": Digest::of(manifest).to_string(),
                    "platform": {"os": "linux", "architecture": architecture},
                })
            })
            .collect();
        let list = json!({"schemaVersion": 2, "mediaType": LIST, "manifests": entries});
        self.put_manifest(tag, LIST, list.to_string().into_bytes())
    }

    fn push_image(&self, image: &Image) -> Vec<u8> {
        let layer = image.layer();
        let config = image.config(&layer);
        let blob = |octets: &[u8], media_type: &str| json!({"mediaType": media_type, "size": octets.len(), "digest": Digest::of(octets).to_string()});
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": blob(&config, "application/vnd.docker.container.image.v1+json"),
            "layers": [blob(&layer, "application/vnd.docker.image.rootfs.diff.tar.gzip")],
        });
        let manifest = manifest.to_string().into_bytes();
        for octets in [layer, config] {
            self.put(format!("blobs/{}", Digest::of(&octets)), "application/octet-stream", octets);
        }
        self.put(format!("manifests/{}", Digest::of(&manifest)), MANIFEST, manifest.clone());
        manifest
    }

    fn put_manifest(&self, tag: &str, media_type: &'static str, manifest: Vec<u8>) -> Digest {
        let digest = Digest::of(&manifest);
        self.put(format!("manifests/{digest}"), media_type, manifest.clone());
        self.put(format!("manifests/{tag}"), media_type, manifest);
        digest
    }

    fn put(&self, path: String, media_type: &'static str, octets: Vec<u8>) {
        self.shared.lock().unwrap().content.insert(path, (media_type, octets));
    }

    pub(crate) fn forget_everything(&self) {
        self.shared.lock().unwrap().content.clear();
    }

    /// `authorization` as in the header field: `Basic …`.
    pub(crate) fn ask_for(&self, authorization: &str) {
        self.shared.lock().unwrap().authorization = Some(authorization.to_owned());
    }

    pub(crate) fn stall_after(&self, octets: usize) {
        self.shared.lock().unwrap().stalls_after = Some(octets);
    }

    pub(crate) fn fail(&self, status: StatusCode, code: &'static str) {
        self.shared.lock().unwrap().fails = Some((status, code));
    }
}

async fn answer(State(shared): State<Arc<Mutex<Shared>>>, request: Request) -> Response {
    let shared = shared.lock().unwrap();
    if let Some((status, code)) = shared.fails {
        return problem(status, code);
    }
    let authorization = request.headers().get(header::AUTHORIZATION).and_then(|it| it.to_str().ok());
    if shared.authorization.is_some() && authorization != shared.authorization.as_deref() {
        let mut response = problem(StatusCode::UNAUTHORIZED, "UNAUTHORIZED");
        response.headers_mut().insert(header::WWW_AUTHENTICATE, "Basic realm=\"test\"".parse().unwrap());
        return response;
    }
    let Some(path) = request.uri().path().strip_prefix("/v2/") else {
        return StatusCode::NOT_FOUND.into_response();
    };
    if path.is_empty() {
        return StatusCode::OK.into_response();
    }
    let Some((media_type, octets)) = path.strip_prefix("team/app/").and_then(|it| shared.content.get(it))
    else {
        return problem(StatusCode::NOT_FOUND, "MANIFEST_UNKNOWN");
    };
    let mut response = Response::builder()
        .header(header::CONTENT_TYPE, *media_type)
        .header(header::CONTENT_LENGTH, octets.len())
        .header("Docker-Content-Digest", Digest::of(octets).to_string());
    response = response.header("Docker-Distribution-Api-Version", "registry/2.0");
    let body = match shared.stalls_after {
        Some(after) if path.contains("/blobs/") && octets.len() > after => {
            let first = bytes::Bytes::copy_from_slice(&octets[..after]);
            let first = futures::stream::iter([Ok::<_, std::io::Error>(first)]);
            Body::from_stream(first.chain(futures::stream::pending()))
        }
        _ => Body::from(octets.clone()),
    };
    response.body(body).unwrap()
}

fn problem(status: StatusCode, code: &str) -> Response {
    let body = json!({"errors": [{"code": code, "message": code.to_lowercase()}]}).to_string();
    (status, [(header::CONTENT_TYPE, "application/json")], body).into_response()
}
