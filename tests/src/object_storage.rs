//! A real server that speaks S3, for a test, with the bucket `wharf`.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use http::Method;
use wharf_types::Digest;

use crate::{Client, Reply, workspace};

/// Keys of somebody, which the server does not look at.
const SOMEBODY: &str =
    "AWS4-HMAC-SHA256 Credential=k/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=x";

/// Ends with the test, and its content with it.
#[derive(Debug)]
pub struct ObjectStorage {
    endpoint: String,
    log: PathBuf,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    _keeper: Child,
}

impl ObjectStorage {
    /// Starts a server.
    ///
    /// # Panics
    ///
    /// When it cannot be installed.
    pub async fn start() -> Self {
        let script = workspace::root().join("scripts/object-storage.sh");
        let mut command = Command::new(script);
        let mut keeper = command.arg("run").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut output = BufReader::new(keeper.stdout.take().unwrap());
        let mut said = String::new();
        output.read_line(&mut said).unwrap();
        let (endpoint, log) = said.trim().split_once(' ').expect("the object storage starts");
        let (endpoint, log) = (endpoint.to_owned(), log.into());
        let input = keeper.stdin.take().unwrap();
        let storage = Self { endpoint, log, input, output, _keeper: keeper };
        assert_eq!(storage.ask(Method::PUT, "/wharf", "").await.status, 200);
        storage
    }

    /// `hang` (it takes connections and says nothing) and `go on`. Returns when that is done.
    pub fn tell(&mut self, command: &str) {
        writeln!(self.input, "{command}").unwrap();
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        assert_eq!(line, "done\n");
    }

    /// The environment of a server whose artifacts are there.
    pub fn environment(&self) -> [(&'static str, &str); 5] {
        [
            ("WHARF_ARTIFACTS", "s3://wharf/here"),
            ("AWS_ENDPOINT_URL", &self.endpoint),
            ("AWS_ALLOW_HTTP", "true"),
            ("AWS_ACCESS_KEY_ID", "key"),
            ("AWS_SECRET_ACCESS_KEY", "secret"),
        ]
    }

    /// Asks as somebody else than the platform.
    async fn ask(&self, method: Method, path: &str, body: &str) -> Reply {
        let authority = self.endpoint.trim_start_matches("http://");
        let mut request = crate::request(authority, path).map(|_| crate::full(body.to_owned()));
        *request.method_mut() = method;
        request.headers_mut().insert(http::header::AUTHORIZATION, http::HeaderValue::from_static(SOMEBODY));
        Client::new(&self.endpoint).send(request).await.unwrap()
    }

    fn path(digest: Digest) -> String {
        format!("/wharf/here/sha256/{}/{}", &digest.hex()[..2], digest.hex())
    }

    /// Puts something else in place of an artifact.
    pub async fn alter(&self, digest: Digest) {
        let altered = self.ask(Method::PUT, &Self::path(digest), "something else").await;
        assert_eq!(altered.status, 200);
    }

    pub async fn has(&self, digest: Digest) -> bool {
        self.ask(Method::GET, &Self::path(digest), "").await.status == 200
    }

    /// How often such a request for an artifact came.
    pub fn requests(&self, method: &str, digest: Digest) -> usize {
        let log = std::fs::read_to_string(&self.log).unwrap();
        let line = format!("\"{method} {}", Self::path(digest));
        log.lines().filter(|it| it.contains(&line)).count()
    }
}
