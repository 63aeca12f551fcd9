//! `wharf exec`: runs a command in a container of an app, and ends with its exit code.

use std::convert::Infallible;
use std::future::pending;
use std::io::{self, IsTerminal as _};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Args;
use reqwest::Upgraded;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, Stdin};
use tokio::signal::unix::{SignalKind, signal};
use wharf_types::exec::{Decoder, ExecSpec, Frame};
use wharf_types::{AppName, InstanceId};

use crate::args::{parse_assignment, parse_instance};
use crate::exit::{Exit, Failure};
use crate::raw::{Raw, window_size};
use crate::session::Session;

/// What is read at once.
const CHUNK_BYTES: usize = 16 << 10;

#[derive(Args, Debug)]
pub struct ExecArgs {
    /// Left out: --app, then the app of wharf.toml in this folder
    #[arg(value_name = "APP")]
    pub name: Option<AppName>,
    /// Pass stdin on
    #[arg(short, long)]
    pub interactive: bool,
    /// Give the command a terminal
    #[arg(short, long)]
    pub tty: bool,
    /// A variable beside those of the container; may be given several times
    #[arg(short, long = "env", value_name = "NAME=VALUE", value_parser = parse_assignment)]
    pub env: Vec<(String, String)>,
    /// As whom: a name or a number, with `:GROUP` if wanted [default: as the container]
    #[arg(long, value_name = "USER")]
    pub user: Option<String>,
    /// In which folder [default: that of the container]
    #[arg(long, value_name = "DIR")]
    pub workdir: Option<String>,
    /// In which slot, ready or not [default: the lowest that is ready]
    #[arg(long, value_name = "N", conflicts_with = "instance", value_parser = clap::value_parser!(u32).range(1..))]
    pub slot: Option<u32>,
    /// In which instance, by its id
    #[arg(long, value_name = "ID", value_parser = parse_instance)]
    pub instance: Option<InstanceId>,
    /// What whoever forgets `--` writes of the command
    #[arg(hide = true)]
    pub stray: Vec<String>,
    /// The program and its arguments
    #[arg(last = true, value_name = "COMMAND")]
    pub command: Vec<String>,
}

/// What is wrong with a command that stands elsewhere or is not there at all, and what to write.
fn misplaced(args: &ExecArgs) -> Option<(&'static str, String)> {
    if args.stray.is_empty() && !args.command.is_empty() {
        return None;
    }
    let name = args.name.as_ref().map(|name| format!(" {name}")).unwrap_or_default();
    let words: Vec<&str> = args.stray.iter().chain(&args.command).map(String::as_str).collect();
    let (problem, words) = match &words[..] {
        [] => ("no command was named", "sh -c 'echo hello'".to_owned()),
        words => ("the command stands after `--`", words.join(" ")),
    };
    Some((problem, format!("write `wharf exec{name} -- {words}`")))
}

pub async fn run(session: &Session, args: ExecArgs) -> anyhow::Result<ExitCode> {
    if let Some((problem, help)) = misplaced(&args) {
        return Err(Failure::usage(problem).help(help).into());
    }
    let app = session.app(args.name)?;
    let is_typed = args.interactive && args.tty;
    if is_typed && !io::stdin().is_terminal() {
        return Err(Failure::usage("-t with -i needs a terminal on stdin, and there is none")
            .help("leave out -t to pass on a file or a pipe")
            .into());
    }
    let spec = ExecSpec {
        command: args.command,
        stdin: args.interactive,
        tty: args.tty,
        user: args.user,
        workdir: args.workdir,
        env: args.env.into_iter().collect(),
        slot: args.slot,
        instance: args.instance,
    };
    spec.validate().map_err(|error| Failure::usage(error.to_string()))?;
    let connection = session.client.exec(&app, &spec).await?;
    let raw = if is_typed { Some(Raw::begin()?) } else { None };
    let ended = to_the_end(connection, &spec).await;
    drop(raw);
    // A code that no process can end with here is a failure all the same.
    Ok(ExitCode::from(u8::try_from(ended?).unwrap_or(u8::MAX)))
}

/// Returns the exit code.
async fn to_the_end(connection: Upgraded, spec: &ExecSpec) -> anyhow::Result<i32> {
    // So that the terminal is put back as it was. Ctrl-C is the command's where it has one, and ends this process elsewhere.
    let (mut terminate, mut hangup) = (signal(SignalKind::terminate())?, signal(SignalKind::hangup())?);
    let (from, to) = tokio::io::split(connection);
    let (mut stdout, mut stderr) = (tokio::io::stdout(), tokio::io::stderr());
    let stopped = || Failure::new(Exit::Platform, "stopped by a signal, and the command with it");
    tokio::select! {
        biased;
        ended = receive(from, &mut stdout, &mut stderr) => ended,
        failed = send(to, spec) => match failed? {},
        _ = terminate.recv() => Err(stopped().into()),
        _ = hangup.recv() => Err(stopped().into()),
    }
}

/// Sends what is for stdin, and the size of the terminal whenever it changes. Ends only with an error.
async fn send(mut to: impl AsyncWrite + Unpin, spec: &ExecSpec) -> anyhow::Result<Infallible> {
    let mut resized = signal(SignalKind::window_change())?;
    let mut stdin = spec.stdin.then(tokio::io::stdin);
    let mut chunk = vec![0; CHUNK_BYTES];
    let mut next = if spec.tty { window_size().map(Frame::Resize) } else { None };
    loop {
        if let Some(frame) = next.take()
            && (to.write_all(&frame.encode()).await.is_err() || to.flush().await.is_err())
        {
            // Why it is gone may still be read.
            return pending().await;
        }
        next = tokio::select! {
            read = read(stdin.as_mut(), &mut chunk) => match read.context("could not read stdin")? {
                0 => {
                    stdin = None;
                    Some(Frame::Stdin(Vec::new()))
                }
                count => Some(Frame::Stdin(chunk[..count].to_vec())),
            },
            _ = resized.recv(), if spec.tty => window_size().map(Frame::Resize),
        };
    }
}

/// Waits for ever where there is nothing to read from.
async fn read(stdin: Option<&mut Stdin>, chunk: &mut [u8]) -> io::Result<usize> {
    match stdin {
        Some(stdin) => stdin.read(chunk).await,
        None => pending().await,
    }
}

/// Prints what the command prints, and returns its exit code.
async fn receive(
    mut from: impl AsyncRead + Unpin,
    stdout: &mut (impl AsyncWrite + Unpin),
    stderr: &mut (impl AsyncWrite + Unpin),
) -> anyhow::Result<i32> {
    let mut decoder = Decoder::default();
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        while let Some(frame) = decoder.next_frame().context("what the platform says is no answer to this")? {
            let written = match frame {
                Frame::Stdout(octets) => write(stdout, &octets).await,
                Frame::Stderr(octets) => write(stderr, &octets).await,
                Frame::Exit(code) => return Ok(code),
                Frame::Error(problem) => return Err(problem.into()),
                Frame::Ping | Frame::Start(_) | Frame::Stdin(_) | Frame::Resize(_) => Ok(()),
            };
            match written {
                // A reader that went away (`wharf exec … | head`) ends the program in good order.
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(0),
                written => written.context("could not print what the command prints")?,
            }
        }
        match from.read(&mut chunk).await {
            Ok(count @ 1..) => decoder.push(&chunk[..count]),
            Ok(0) | Err(_) => {
                let what = "the connection ended before the command did, and the command with it";
                return Err(Failure::new(Exit::Unreachable, what)
                    .help("the platform went away, or this token may not run commands there any more")
                    .into());
            }
        }
    }
}

async fn write(to: &mut (impl AsyncWrite + Unpin), octets: &[u8]) -> io::Result<()> {
    to.write_all(octets).await?;
    to.flush().await
}

#[cfg(test)]
mod tests {
    use wharf_types::Problem;
    use wharf_types::problem::ProblemCode;

    use super::*;

    async fn received(frames: &[Frame]) -> (anyhow::Result<i32>, Vec<u8>, Vec<u8>) {
        let octets: Vec<u8> = frames.iter().flat_map(Frame::encode).collect();
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        let ended = receive(&octets[..], &mut stdout, &mut stderr).await;
        (ended, stdout, stderr)
    }

    #[test]
    fn whoever_forgets_where_the_command_stands_is_told() {
        use clap::Parser as _;

        let of = |words: &[&str]| {
            let cli = crate::args::Cli::try_parse_from([&["wharf", "exec"], words].concat()).unwrap();
            let crate::args::Command::Exec(with) = cli.command else { panic!("{words:?}") };
            misplaced(&with.args)
        };
        assert_eq!(of(&["web", "-it", "--", "ls", "-l"]), None);
        assert_eq!(of(&["--", "ls"]), None);
        let (problem, help) = of(&["-i", "web", "ls", "/"]).unwrap();
        assert_eq!((problem, &help[..]), ("the command stands after `--`", "write `wharf exec web -- ls /`"));
        let (problem, help) = of(&["web"]).unwrap();
        assert!(problem == "no command was named" && help.starts_with("write `wharf exec web -- "), "{help}");
    }

    #[tokio::test]
    async fn both_streams_are_told_apart_and_the_exit_code_is_passed_on() {
        let said = [
            Frame::Stdout(b"out".to_vec()),
            Frame::Ping,
            Frame::Stderr(b"err".to_vec()),
            Frame::Stdout(b"!".to_vec()),
            Frame::Exit(3),
        ];
        let (ended, stdout, stderr) = received(&said).await;
        assert_eq!((ended.unwrap(), &stdout[..], &stderr[..]), (3, &b"out!"[..], &b"err"[..]));
    }

    #[tokio::test]
    async fn a_problem_and_a_connection_that_breaks_are_errors() {
        let problem = Problem::new(ProblemCode::Unavailable, "the worker is stopping");
        let (ended, ..) = received(&[Frame::Error(problem.clone())]).await;
        assert_eq!(ended.unwrap_err().downcast_ref::<Problem>(), Some(&problem));
        let (ended, stdout, _) = received(&[Frame::Stdout(b"half".to_vec())]).await;
        assert_eq!((Exit::of(&ended.unwrap_err()), &stdout[..]), (Exit::Unreachable, &b"half"[..]));
    }

    #[test]
    fn the_command_stands_behind_two_dashes_and_keeps_its_own_flags() {
        use clap::Parser as _;

        let line = ["wharf", "exec", "-it", "-e", "A=1", "web", "--slot", "2", "--", "ls", "-l", "--json"];
        let cli = crate::args::Cli::parse_from(line);
        let crate::args::Command::Exec(exec) = cli.command else { panic!("not exec") };
        assert_eq!(exec.args.command, ["ls", "-l", "--json"]);
        assert!(exec.args.interactive && exec.args.tty && !exec.global.json);
        assert_eq!((exec.args.name.unwrap().as_str(), exec.args.slot), ("web", Some(2)));
        let bad = ["wharf", "exec", "--slot", "0", "--", "id"];
        assert!(crate::args::Cli::try_parse_from(bad).is_err(), "{bad:?}");
    }
}
