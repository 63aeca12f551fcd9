//! A server that speaks S3, for a test of its own, and platforms whose artifacts are there.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;

use axum::body::Body;
use axum::http::{Method, Request};
use http_body_util::BodyExt;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use wharf_types::Digest;

use super::fixture::{Platform, config};
use crate::{ArtifactsAt, BucketAt, Config};

/// Keys of somebody, which the server does not look at.
const SOMEBODY: &str =
    "AWS4-HMAC-SHA256 Credential=k/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=x";

pub(crate) struct ObjectStorage {
    pub(crate) endpoint: String,
    log: PathBuf,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    _keeper: Child,
}

impl ObjectStorage {
    /// With the bucket `wharf`.
    pub(crate) async fn start() -> Self {
        let storage = Self::run(false);
        assert_eq!(storage.ask(Method::PUT, "/wharf", "").await.0, 200);
        storage
    }

    /// It refuses all keys.
    pub(crate) async fn start_closed() -> Self {
        let storage = Self::run(true);
        // It looks at keys from the second request on.
        assert_eq!(storage.ask(Method::PUT, "/wharf", "").await.0, 200);
        storage
    }

    fn run(is_closed: bool) -> Self {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/object-storage.sh");
        let mut command = Command::new(script);
        command.arg("run").env("KEYS", if is_closed { "1" } else { "" });
        let mut keeper = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut output = BufReader::new(keeper.stdout.take().unwrap());
        let mut said = String::new();
        output.read_line(&mut said).unwrap();
        let (endpoint, log) = said.trim().split_once(' ').expect("the object storage starts");
        let input = keeper.stdin.take().unwrap();
        Self { endpoint: endpoint.to_owned(), log: log.into(), input, output, _keeper: keeper }
    }

    /// See the script.
    pub(crate) fn tell(&mut self, command: &str) {
        writeln!(self.input, "{command}").unwrap();
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        assert_eq!(line, "done\n");
    }

    pub(crate) fn at(&self, url: &str) -> BucketAt {
        let variables = [
            ("AWS_ENDPOINT_URL", self.endpoint.as_str()),
            ("AWS_ALLOW_HTTP", "true"),
            ("AWS_ACCESS_KEY_ID", "key"),
            ("AWS_SECRET_ACCESS_KEY", "secret"),
        ];
        let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned()));
        BucketAt::new(url.parse().unwrap(), variables)
    }

    /// A configuration with the bucket `wharf`.
    pub(crate) async fn config(&self, dir: &tempfile::TempDir) -> Config {
        Config { artifacts: ArtifactsAt::Bucket(self.at("s3://wharf/here")), ..config(dir).await }
    }

    pub(crate) async fn platform(&self) -> Platform {
        let dir = Arc::new(tempfile::tempdir().unwrap());
        let platform = Platform::start_with(self.config(&dir).await, dir).await;
        platform.leads().await;
        platform
    }

    /// Asks as somebody else than the platform.
    pub(crate) async fn ask(&self, method: Method, path: &str, body: &str) -> (u16, Vec<u8>) {
        let authority = self.endpoint.trim_start_matches("http://");
        let stream = TokioIo::new(TcpStream::connect(authority).await.unwrap());
        let (mut sender, connection) = hyper::client::conn::http1::handshake(stream).await.unwrap();
        tokio::spawn(connection);
        let request = Request::builder().method(method).uri(path).header("host", authority);
        let request =
            request.header("content-type", "application/octet-stream").header("authorization", SOMEBODY);
        let response = sender.send_request(request.body(Body::from(body.to_owned())).unwrap()).await.unwrap();
        let status = response.status().as_u16();
        (status, response.into_body().collect().await.unwrap().to_bytes().to_vec())
    }

    /// What it was asked.
    pub(crate) fn log(&self) -> Vec<u8> {
        std::fs::read(&self.log).unwrap()
    }

    /// The path of an artifact.
    pub(crate) fn path(digest: Digest) -> String {
        format!("/wharf/here/sha256/{}/{}", &digest.hex()[..2], digest.hex())
    }

    pub(crate) async fn has(&self, digest: Digest) -> bool {
        self.ask(Method::GET, &Self::path(digest), "").await.0 == 200
    }
}
