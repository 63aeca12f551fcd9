//! A server that mounts the crate as a control plane would, and a handler that does what a test says.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt as _, StreamExt as _, TryStreamExt as _};
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::TokioIo;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Mutex, mpsc};
use uuid::Uuid;
use wharf_git::{
    Handler, Limits, Outcome, Progress, Protocol, Push, Repositories, Repository, Service, Verdict, decoded,
};

type Script = Arc<dyn Fn(Push, Progress) -> BoxFuture<'static, Verdict> + Send + Sync>;
type Body = http_body_util::combinators::UnsyncBoxBody<Bytes, io::Error>;

/// A repository behind HTTP.
pub(crate) struct Server {
    pub(crate) url: String,
    pub(crate) address: SocketAddr,
    pub(crate) repositories: Repositories,
    pub(crate) repository: Repository,
    pub(crate) root: TempDir,
    /// What handlers were told at the end.
    pub(crate) outcomes: Mutex<mpsc::UnboundedReceiver<Outcome>>,
    /// Requests that came compressed.
    pub(crate) compressed: Arc<AtomicUsize>,
}

struct Scripted {
    script: Script,
    outcomes: mpsc::UnboundedSender<Outcome>,
}

impl Handler for Scripted {
    async fn push(&mut self, push: Push, progress: Progress) -> Verdict {
        (self.script)(push, progress).await
    }

    async fn ended(self, outcome: Outcome) {
        let _ = self.outcomes.send(outcome);
    }
}

impl Server {
    /// Accepts every push.
    pub(crate) async fn accepting() -> Self {
        Self::start(Limits::default(), |_, _| async { Verdict::Accept }).await
    }

    pub(crate) async fn start<F>(
        limits: Limits,
        script: impl Fn(Push, Progress) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = Verdict> + Send + 'static,
    {
        let root = tempfile::tempdir().unwrap();
        let repositories = Repositories::open(&root.path().join("git"), limits).unwrap();
        let repository = repositories.ensure(Uuid::now_v7()).await.unwrap();
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, outcomes) = mpsc::unbounded_channel();
        let script: Script = Arc::new(move |push, progress| script(push, progress).boxed());
        let compressed = Arc::new(AtomicUsize::new(0));
        tokio::spawn(serve(listener, repository.clone(), script, sender, compressed.clone()));
        Self {
            url: format!("http://{address}/app.git"),
            address,
            repositories,
            repository,
            root,
            outcomes: Mutex::new(outcomes),
            compressed,
        }
    }

    /// Sends a body as a push, as much of it as there is, and says what comes back.
    pub(crate) async fn send(&self, body: &[u8], announced: usize) -> String {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let head = format!(
            "POST /app.git/git-receive-pack HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: {announced}\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(body).await.unwrap();
        let mut answer = Vec::new();
        crate::within(stream.read_to_end(&mut answer)).await.unwrap();
        String::from_utf8_lossy(&answer).into_owned()
    }

    /// No handler was asked since the last that was, and no ref has moved.
    pub(crate) async fn is_untouched(&self) {
        crate::within(self.repositories.idle()).await;
        assert_eq!(self.repository.refs().await.unwrap().len(), 0);
        assert!(self.outcomes.lock().await.try_recv().is_err(), "a handler was asked");
    }

    /// The only repository on the disk.
    pub(crate) fn folder(&self) -> PathBuf {
        let entries = std::fs::read_dir(self.root.path().join("git")).unwrap();
        let mut paths = entries.map(|entry| entry.unwrap().path());
        paths.find(|path| path.extension().is_some_and(|end| end == "git")).unwrap()
    }

    /// Whether objects of a push that has not ended are there.
    pub(crate) fn has_quarantine(&self) -> bool {
        let entries = std::fs::read_dir(self.folder().join("objects")).unwrap();
        entries
            .into_iter()
            .any(|entry| entry.unwrap().file_name().to_string_lossy().starts_with("tmp_objdir"))
    }

    /// What the next handler is told.
    pub(crate) async fn outcome(&self) -> Outcome {
        let mut outcomes = self.outcomes.lock().await;
        crate::within(outcomes.recv()).await.unwrap()
    }
}

async fn serve(
    listener: TcpListener,
    repository: Repository,
    script: Script,
    outcomes: mpsc::UnboundedSender<Outcome>,
    compressed: Arc<AtomicUsize>,
) {
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let (repository, script, outcomes) = (repository.clone(), script.clone(), outcomes.clone());
        let compressed = compressed.clone();
        let service = hyper::service::service_fn(move |request: Request<Incoming>| {
            if request.headers().contains_key("content-encoding") {
                compressed.fetch_add(1, Ordering::Relaxed);
            }
            let handler = Scripted { script: script.clone(), outcomes: outcomes.clone() };
            answer(repository.clone(), handler, request).map(Ok::<_, Infallible>)
        });
        tokio::spawn(
            hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service),
        );
    }
}

async fn answer(repository: Repository, handler: Scripted, request: Request<Incoming>) -> Response<Body> {
    let protocol = Protocol::from_header(header(request.headers(), "git-protocol"));
    let encoding = header(request.headers(), "content-encoding").map(str::to_owned);
    let path = request.uri().path().to_owned();
    let query = request.uri().query().unwrap_or_default().to_owned();
    let body = request.into_body().into_data_stream().map_err(io::Error::other);
    let (status, kind, answer) = if path.ends_with("/info/refs") {
        let service: Service = query.strip_prefix("service=").unwrap().parse().unwrap();
        let refs = repository.advertise(service, protocol).await.unwrap();
        let stream = futures::stream::iter([Ok(refs)]).boxed();
        (StatusCode::OK, service.advertisement_type(), stream)
    } else if path.ends_with("/git-upload-pack") {
        let body = decoded(encoding.as_deref(), body, 1 << 20).unwrap();
        let (status, stream) = or_error(repository.upload(protocol, body).await);
        (status, Service::UploadPack.result_type(), stream)
    } else {
        let (status, stream) = or_error(repository.receive(body, handler).await.map(|answer| answer.boxed()));
        (status, Service::ReceivePack.result_type(), stream)
    };
    Response::builder()
        .status(status)
        .header("content-type", kind)
        .header("cache-control", "no-cache")
        .body(BodyExt::boxed_unsync(StreamBody::new(answer.map_ok(Frame::data))))
        .unwrap()
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

fn or_error(
    answer: Result<BoxStream<'static, io::Result<Bytes>>, impl std::error::Error>,
) -> (StatusCode, BoxStream<'static, io::Result<Bytes>>) {
    match answer {
        Ok(stream) => (StatusCode::OK, stream),
        Err(error) => {
            let text = Bytes::from(error.to_string());
            (StatusCode::BAD_REQUEST, futures::stream::iter([Ok(text)]).boxed())
        }
    }
}
