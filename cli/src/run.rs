//! `wharf run`: one component on this machine, through the worker's own code.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use bytes::Bytes;
use clap::Args;
use http::{Request, Response, StatusCode, Uri};
use http_body_util::{Either, Full};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::net::{TcpListener, TcpStream};
use wharf_runtime::logs::LogSink;
use wharf_runtime::wasm::app::HttpApp;
use wharf_runtime::wasm::compiler::{CompileCommand, key_in};
use wharf_runtime::wasm::failure::InvokeError;
use wharf_runtime::wasm::host::WasmHost;
use wharf_runtime::wasm::standalone::{Loaded, Options, load};
use wharf_types::spec::AppSpec;

#[derive(Args, Debug)]
pub struct RunArgs {
    /// The component or core module to run
    pub file: PathBuf,
    /// Set an environment variable of the guest; may be repeated
    #[arg(long, value_name = "K=V")]
    pub env: Vec<String>,
    /// Let the guest use a folder of this machine; may be repeated
    #[arg(long, value_name = "HOST::GUEST")]
    pub dir: Vec<String>,
    /// Let the guest reach an address, such as `https://api.example.com`; may be repeated
    #[arg(long, value_name = "GRANT")]
    pub net: Vec<String>,
    /// Where an HTTP app is served; port 0 takes any free one
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:0")]
    pub addr: SocketAddr,
    /// Arguments of the guest
    #[arg(last = true)]
    pub args: Vec<String>,
}

pub async fn run(args: RunArgs) -> anyhow::Result<ExitCode> {
    let options = options(&args)?;
    crate::file_handles::raise().context("cannot read the limit of open files")?;
    let bytes = std::fs::read(&args.file).with_context(|| format!("cannot read {}", args.file.display()))?;
    let host = Arc::new(host()?);
    match load(host, bytes.into(), options).await? {
        Loaded::Command(command) => {
            let code = command.run().await?;
            // A guest may choose any number; a process of this system has eight bits of it.
            Ok(ExitCode::from((code & 0xff) as u8))
        }
        Loaded::Http(app) => serve(app, args.addr).await,
    }
}

fn options(args: &RunArgs) -> anyhow::Result<Options> {
    let mut spec = AppSpec::default();
    for pair in &args.env {
        let (key, value) = pair
            .split_once('=')
            .with_context(|| format!("--env {pair}: write NAME=VALUE, such as --env GREETING=hi"))?;
        spec.env.insert(key.to_owned(), value.to_owned());
    }
    spec.outbound.allow.clone_from(&args.net);
    spec.limits.memory = wharf_types::quantity::ByteSize::mib(4096);
    spec.validate()?;
    let dir = |pair: &String| {
        let (host, guest) = pair
            .split_once("::")
            .with_context(|| format!("--dir {pair}: write HOST::GUEST, such as --dir ./data::/data"))?;
        anyhow::Ok((PathBuf::from(host), guest.to_owned()))
    };
    let dirs = args.dir.iter().map(dir).collect::<Result<_, _>>()?;
    let name = args.file.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
    Ok(Options { name, spec, args: args.args.clone(), dirs })
}

fn host() -> anyhow::Result<WasmHost> {
    let folder = directories::ProjectDirs::from("", "", "wharf")
        .map_or_else(|| std::env::temp_dir().join("wharf"), |dirs| dirs.cache_dir().to_owned());
    let describe = || format!("cannot use the cache folder {}", folder.display());
    let key = key_in(&folder.join("compiled.key")).with_context(describe)?;
    WasmHost::new(Path::new(&folder.join("compiled")), key, CompileCommand::this_program(), LogSink::new())
        .with_context(describe)
}

async fn serve(app: Arc<HttpApp>, addr: SocketAddr) -> anyhow::Result<ExitCode> {
    let listener = TcpListener::bind(addr).await.with_context(|| format!("cannot listen on {addr}"))?;
    eprintln!("http://{}", listener.local_addr()?);
    let mut interrupt = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::interrupt())?;
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => drop(tokio::spawn(connection(app.clone(), stream))),
                // Out of file descriptors, most likely: the connections that are open will free some.
                Err(error) => {
                    eprintln!("could not accept a connection: {error}");
                    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                }
            },
            _ = interrupt.recv() => return Ok(ExitCode::SUCCESS),
            _ = terminate.recv() => return Ok(ExitCode::SUCCESS),
        }
    }
}

async fn connection(app: Arc<HttpApp>, stream: TcpStream) {
    // Without it, small writes wait for the peer's delayed acknowledgement. It is not fatal.
    let _ = stream.set_nodelay(true);
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new());
    builder.http2().timer(TokioTimer::new());
    let service = hyper::service::service_fn(move |request| answer(app.clone(), request));
    // A connection that breaks is the client's affair.
    let _ = builder.serve_connection(TokioIo::new(stream), service).await;
}

type Answer = Response<Either<wharf_runtime::wasm::body::GuestBody, Full<Bytes>>>;

async fn answer(app: Arc<HttpApp>, mut request: Request<Incoming>) -> Result<Answer, Infallible> {
    let absolute = make_absolute(&request);
    let result = match absolute {
        Some(uri) => {
            *request.uri_mut() = uri;
            app.call(request).await
        }
        None => Err(InvokeError::BadRequest("the request names no host".into())),
    };
    Ok(match result {
        Ok(response) => response.map(Either::Left),
        Err(error) => {
            eprintln!("{error}");
            let status = match error {
                InvokeError::Busy => StatusCode::SERVICE_UNAVAILABLE,
                InvokeError::Timeout(_) | InvokeError::Cpu(_) => StatusCode::GATEWAY_TIMEOUT,
                InvokeError::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
                InvokeError::BadRequest(_) => StatusCode::BAD_REQUEST,
                _ => StatusCode::BAD_GATEWAY,
            };
            let mut response = Response::new(Either::Right(Full::from(format!("{error}\n"))));
            *response.status_mut() = status;
            response
        }
    })
}

/// `wasi:http` hands scheme and authority to the guest, so they must be there.
fn make_absolute(request: &Request<Incoming>) -> Option<Uri> {
    let authority = match request.uri().authority() {
        Some(authority) => authority.as_str(),
        None => request.headers().get(http::header::HOST)?.to_str().ok()?,
    };
    let path = request.uri().path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
    Uri::builder().scheme("http").authority(authority).path_and_query(path).build().ok()
}
