//! `wharf run`: one component or core module on this machine, through the worker's own code.

use std::convert::Infallible;
use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use bytes::Bytes;
use clap::Args;
use directories::ProjectDirs;
use http::{Request, Response, StatusCode, Uri};
use http_body_util::{Either, Full};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};
use wharf_runtime::backend::Failure as GuestFailure;
use wharf_runtime::logs::LogSink;
use wharf_runtime::space::Space;
use wharf_runtime::wasm::app::HttpApp;
use wharf_runtime::wasm::compiler::CompileCommand;
use wharf_runtime::wasm::compiler::key::key_in;
use wharf_runtime::wasm::failure::InvokeError;
use wharf_runtime::wasm::host::WasmHost;
use wharf_runtime::wasm::profiler::Profiler;
use wharf_runtime::wasm::standalone::{Loaded, Options, load};
use wharf_types::node::ReasonKind;
use wharf_types::spec::AppSpec;

use crate::args::parse_assignment;
use crate::artifact;
use crate::exit::{Exit, Failure};
use crate::output;

#[derive(Args, Debug)]
pub struct RunArgs {
    /// The component or core module to run
    pub file: PathBuf,
    /// Set an environment variable of the guest; may be repeated
    #[arg(long, value_name = "K=V", value_parser = parse_assignment)]
    pub env: Vec<(String, String)>,
    /// Let a command use a folder of this machine; may be repeated
    #[arg(long, value_name = "HOST::GUEST", value_parser = parse_dir)]
    pub dir: Vec<(PathBuf, String)>,
    /// Let the guest reach an address, such as `https://api.example.com`; may be repeated
    #[arg(long, value_name = "GRANT")]
    pub net: Vec<String>,
    /// Where an HTTP app is served; port 0 takes any free one [default: 127.0.0.1:0]
    #[arg(long, value_name = "ADDR")]
    pub addr: Option<SocketAddr>,
    /// Write a CPU profile of the guest to this file when it ends; https://profiler.firefox.com shows it
    #[arg(long, value_name = "FILE")]
    pub profile: Option<PathBuf>,
    /// Arguments of the guest
    #[arg(last = true)]
    pub args: Vec<String>,
}

fn parse_dir(text: &str) -> Result<(PathBuf, String), String> {
    match text.split_once("::") {
        Some((host, guest)) if !host.is_empty() && !guest.is_empty() => Ok((host.into(), guest.to_owned())),
        _ => Err("write HOST::GUEST, such as ./data::/data".to_owned()),
    }
}

pub async fn run(args: RunArgs) -> anyhow::Result<ExitCode> {
    let options = options(&args)?;
    // Made now: the guest need not run if its profile cannot be kept.
    let profile = match (&args.profile, &options.profiler) {
        (Some(path), Some(profiler)) => {
            let file = File::create(path)
                .map_err(|error| Failure::invalid(format!("cannot write {}: {error}", path.display())))?;
            Some((path.clone(), file, profiler.clone()))
        }
        _ => None,
    };
    let ended = run_guest(args, options).await;
    if let Some((path, file, profiler)) = profile {
        write_profile(&path, file, &profiler)?;
    }
    ended
}

fn write_profile(path: &Path, file: File, profiler: &Profiler) -> anyhow::Result<()> {
    let mut output = BufWriter::new(file);
    let written = profiler.write(&mut output).and_then(|counts| output.flush().map(|()| counts));
    let (kept, dropped) = written.with_context(|| format!("cannot write {}", path.display()))?;
    let rest = if dropped > 0 { format!("; {dropped} later ones were not kept") } else { String::new() };
    output::note(format!(
        "{kept} samples, one for each millisecond of computing, are in {}{rest}; open it with https://profiler.firefox.com",
        path.display()
    ));
    Ok(())
}

async fn run_guest(args: RunArgs, options: Options) -> anyhow::Result<ExitCode> {
    crate::file_handles::raise().context("cannot read the limit of open files")?;
    let bytes = artifact::read(&args.file)?;
    let host = host()?;
    match load(host, bytes, options).await.map_err(|failure| guest_failure(&args.file, &failure))? {
        Loaded::Command(command) => {
            if args.addr.is_some() {
                return Err(useless(&args.file, "a command", "--addr", "it serves nothing").into());
            }
            if !args.net.is_empty() && !command.has_network() {
                let why = "it has no sockets and calls no HTTP servers";
                return Err(useless(&args.file, "a core module of WASI 0.1", "--net", why).into());
            }
            let code = command.run().await.map_err(|failure| guest_failure(&args.file, &failure))?;
            // A guest may choose any number; a process of this system has eight bits of it.
            Ok(ExitCode::from((code & 0xff) as u8))
        }
        Loaded::Http(app) => {
            if !args.dir.is_empty() {
                return Err(useless(&args.file, "an HTTP app", "--dir", "it gets no folders").into());
            }
            serve(app, &args).await
        }
    }
}

/// A flag that would have no effect is refused: whoever wrote it expects one.
fn useless(file: &Path, kind: &str, flag: &str, why: &str) -> Failure {
    Failure::usage(format!("{} is {kind}, for which {flag} means nothing: {why}", file.display()))
        .help(format!("leave {flag} out"))
}

/// The guest's failure with the exit code that is documented for it.
fn guest_failure(file: &Path, failure: &GuestFailure) -> Failure {
    let exit = match failure.reason.kind {
        ReasonKind::Artifact => Exit::Invalid,
        ReasonKind::Trap
        | ReasonKind::Exit
        | ReasonKind::Limit
        | ReasonKind::Probe
        | ReasonKind::Canary
        | ReasonKind::Asked
        | ReasonKind::Platform => Exit::Platform,
    };
    Failure::new(exit, format!("{}: {failure}", file.display()))
}

fn options(args: &RunArgs) -> anyhow::Result<Options> {
    let mut spec = AppSpec::default();
    spec.env.extend(args.env.iter().cloned());
    spec.args.clone_from(&args.args);
    spec.outbound.allow.clone_from(&args.net);
    spec.limits.memory = wharf_types::quantity::ByteSize::mib(4096);
    spec.validate().map_err(|error| Failure::invalid(error.to_string()))?;
    let name = args.file.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
    let profiler = args.profile.as_ref().map(|_| Arc::new(Profiler::new(&name)));
    Ok(Options { name, spec, args: args.args.clone(), dirs: args.dir.clone(), profiler })
}

fn host() -> anyhow::Result<Arc<WasmHost>> {
    let folder = cache_folder(directories::ProjectDirs::from("", "", "wharf"))?;
    let describe = || format!("cannot use the cache folder {}", folder.display());
    let key = key_in(&folder.join("compiled.key")).with_context(describe)?;
    WasmHost::new(
        &folder.join("compiled"),
        key,
        CompileCommand::this_program(),
        LogSink::new(),
        std::time::Duration::MAX,
        Space::of_others(folder.clone()),
    )
    .with_context(describe)
}

/// Only ever a folder of this user: who can write to it decides what machine code runs here.
fn cache_folder(dirs: Option<ProjectDirs>) -> Result<PathBuf, Failure> {
    dirs.map(|dirs| dirs.cache_dir().to_owned()).ok_or_else(|| {
        Failure::new(Exit::Platform, "no home folder is known, so compiled components have no place")
            .help("set HOME, or XDG_CACHE_HOME, to a folder of yours")
    })
}

/// Says where it serves before the guest can say anything, and when a signal already ends it in good order.
async fn serve(app: Arc<HttpApp>, args: &RunArgs) -> anyhow::Result<ExitCode> {
    let addr = args.addr.unwrap_or(SocketAddr::from(([127, 0, 0, 1], 0)));
    let listener = TcpListener::bind(addr).await.map_err(|error| {
        Failure::new(Exit::Platform, format!("cannot listen on {addr}: {error}"))
            .help("choose another address with `--addr ADDR`; port 0 takes any free one")
    })?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    output::note(format!("http://{}", listener.local_addr()?));
    tokio::select! {
        started = app.start() => started.map_err(|failure| guest_failure(&args.file, &failure))?,
        _ = interrupt.recv() => return Ok(ExitCode::SUCCESS),
        _ = terminate.recv() => return Ok(ExitCode::SUCCESS),
    }
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
                InvokeError::Busy | InvokeError::OverQuota(_) => StatusCode::SERVICE_UNAVAILABLE,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_artifact_that_can_never_run_is_not_valid_and_one_that_fails_is_a_failure() {
        let exit = |kind| {
            let failure = guest_failure(Path::new("x.wasm"), &GuestFailure::new(kind, "why"));
            assert_eq!(failure.to_string(), "x.wasm: why");
            Exit::of(&failure.into())
        };
        assert_eq!(exit(ReasonKind::Artifact), Exit::Invalid);
        assert_eq!(exit(ReasonKind::Trap), Exit::Platform);
    }

    #[test]
    fn a_folder_has_both_of_its_names() {
        assert_eq!(parse_dir("a:b::/data"), Ok(("a:b".into(), "/data".to_owned())));
        for bad in ["x", "::/data", "x::", ""] {
            assert!(parse_dir(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn without_a_home_folder_no_other_folder_is_trusted() {
        assert_eq!(Exit::of(&cache_folder(None).unwrap_err().into()), Exit::Platform);
    }
}
