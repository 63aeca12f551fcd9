//! Commands in a container that runs: health checks, and what people ask for.

use std::collections::VecDeque;
use std::pin::Pin;
use std::time::{Duration, Instant};

use bollard::container::LogOutput;
use bollard::exec::{CreateExecOptions, StartExecOptions, StartExecResults};
use bollard::models::ExecInspectResponse;
use bollard::query_parameters::ResizeExecOptionsBuilder;
use bytes::Bytes;
use futures::{Stream, StreamExt as _};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::AsyncWrite;
use tracing::warn;
use wharf_types::InstanceId;
use wharf_types::log::LogStream;

use crate::container::name_of;
use crate::engine::{Engine, SHORT};
use crate::error::EngineError;
use crate::terminal;

/// How much of what a check prints last is kept.
const TAIL_BYTES: usize = 4 << 10;
/// The engine notes the end of a command a moment after its output has ended.
const NOTE_PERIOD: Duration = Duration::from_millis(10);
/// How long a command that is to be killed may take to start.
const START_LIMIT: Duration = Duration::from_secs(3);

/// What is to be run.
#[derive(Clone, Debug, Default)]
pub struct Command {
    pub words: Vec<String>,
    /// Whether it gets a terminal.
    pub tty: bool,
    /// Whether something is written to it.
    pub stdin: bool,
    /// None: that of the container.
    pub user: Option<String>,
    pub workdir: Option<String>,
    /// As `NAME=VALUE`.
    pub env: Vec<String>,
}

/// A command that runs. Dropping it leaves the command alone; without anybody who reads, it will wait when it prints much.
pub struct Exec {
    pub output: Pin<Box<dyn Stream<Item = Result<ExecOutput, EngineError>> + Send>>,
    /// Shutting it down ends the command's input.
    pub input: Pin<Box<dyn AsyncWrite + Send>>,
    pub process: ExecProcess,
}

/// What can be done with a command beside reading and writing.
#[derive(Clone)]
pub struct ExecProcess {
    engine: Engine,
    id: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExecOutput {
    /// With a terminal all is stdout.
    pub stream: LogStream,
    pub octets: Bytes,
}

/// How a check ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// None: it did not end in time, and was killed.
    pub exit_code: Option<i32>,
    /// What it printed last, on both streams.
    pub output: String,
}

impl Engine {
    /// Runs a command in a container that runs.
    pub async fn exec(&self, id: InstanceId, command: &Command) -> Result<Exec, EngineError> {
        let options = CreateExecOptions {
            attach_stdin: Some(command.stdin),
            attach_stdout: Some(true),
            attach_stderr: Some(true),
            tty: Some(command.tty),
            env: (!command.env.is_empty()).then(|| command.env.clone()),
            cmd: Some(command.words.clone()),
            user: command.user.clone(),
            working_dir: command.workdir.clone(),
            ..CreateExecOptions::default()
        };
        let doing = "run a command in the container";
        let made = self.call(doing, SHORT, self.docker.create_exec(&name_of(id), options)).await?;
        let process = ExecProcess { engine: self.clone(), id: made.id };
        if command.tty {
            let started = terminal::start(&self.settings.socket, &process.id);
            let (printed, input) = self.call(doing, SHORT, started).await?;
            let engine = self.clone();
            let output = printed.map(move |said| match said {
                Ok(octets) => Ok(ExecOutput { stream: LogStream::Stdout, octets }),
                Err(error) => Err(engine.error(doing, error.into())),
            });
            return Ok(Exec { output: Box::pin(output), input: Box::pin(input), process });
        }
        let options = StartExecOptions { detach: false, tty: false, output_capacity: Some(64 << 10) };
        let started = self.call(doing, SHORT, self.docker.start_exec(&process.id, Some(options))).await?;
        let StartExecResults::Attached { output, input } = started else {
            return Err(EngineError::refused(doing, 500, "it runs apart from this call"));
        };
        let engine = self.clone();
        let output = output.filter_map(move |said| {
            let said = said.map(of_stream).map_err(|error| engine.error(doing, error));
            std::future::ready(said.transpose())
        });
        Ok(Exec { output: Box::pin(output), input, process })
    }

    /// Runs a check. One that is not over in time is killed, so that checks that hang never pile up.
    pub async fn probe_command(
        &self,
        id: InstanceId,
        words: &[String],
        timeout: Duration,
    ) -> Result<Probe, EngineError> {
        let command = Command { words: words.to_vec(), ..Command::default() };
        // Its input is held until it is over, because some commands end with it.
        let Exec { mut output, input: _input, process } = self.exec(id, &command).await?;
        let mut tail = Tail::default();
        let run = async {
            while let Some(said) = output.next().await {
                tail.add(&said?.octets);
            }
            process.exit_code().await
        };
        let exit_code = match tokio::time::timeout(timeout, run).await {
            Ok(ended) => Some(ended?),
            Err(_) => {
                process.kill().await?;
                None
            }
        };
        Ok(Probe { exit_code, output: tail.text() })
    }
}

impl ExecProcess {
    /// Sets the size of its terminal.
    pub async fn resize(&self, columns: u16, rows: u16) -> Result<(), EngineError> {
        let options = ResizeExecOptionsBuilder::new().w(columns.into()).h(rows.into()).build();
        let resized = self.engine.docker.resize_exec(&self.id, options);
        self.engine.call("resize the terminal", SHORT, resized).await
    }

    /// What the command gave back, once it has ended: to be called after the end of its output.
    pub async fn exit_code(&self) -> Result<i32, EngineError> {
        loop {
            let found = self.inspect().await?;
            if found.running != Some(true)
                && let Some(code) = found.exit_code
            {
                return Ok(i32::try_from(code).unwrap_or(-1));
            }
            tokio::time::sleep(NOTE_PERIOD).await;
        }
    }

    /// Kills the command. The engine has no way to, but says its process. What that has started is left alone, but for what ends with its
    /// terminal.
    pub async fn kill(&self) -> Result<(), EngineError> {
        let began = Instant::now();
        // The engine begins to speak of a command before it has started it.
        while began.elapsed() < START_LIMIT {
            let found = self.inspect().await?;
            if found.exit_code.is_some() {
                return Ok(());
            }
            let process = found.pid.and_then(|pid| i32::try_from(pid).ok()).filter(|pid| *pid > 1);
            if let (Some(true), Some(process)) = (found.running, process) {
                kill_process(process, &found.container_id.unwrap_or_default());
                return Ok(());
            }
            tokio::time::sleep(NOTE_PERIOD).await;
        }
        Ok(())
    }

    async fn inspect(&self) -> Result<ExecInspectResponse, EngineError> {
        let found = self.engine.docker.inspect_exec(&self.id);
        self.engine.call("look at a command in the container", SHORT, found).await
    }
}

fn kill_process(process: i32, container: &str) {
    // Where the worker does not see the engine's processes, that number is another one's.
    let groups = std::fs::read_to_string(format!("/proc/{process}/cgroup")).unwrap_or_default();
    let killed = if !container.is_empty() && groups.contains(container) {
        kill(Pid::from_raw(process), Signal::SIGKILL).map_err(|error| error.to_string())
    } else {
        Err("its process is not seen from here".to_owned())
    };
    if let Err(problem) = killed {
        warn!("a command in the container {container} may go on after it was to be killed: {problem}");
    }
}

fn of_stream(said: LogOutput) -> Option<ExecOutput> {
    let (stream, octets) = match said {
        LogOutput::StdOut { message } | LogOutput::Console { message } => (LogStream::Stdout, message),
        LogOutput::StdErr { message } => (LogStream::Stderr, message),
        LogOutput::StdIn { .. } => return None,
    };
    Some(ExecOutput { stream, octets })
}

/// The last octets of what was printed.
#[derive(Default)]
struct Tail(VecDeque<u8>);

impl Tail {
    fn add(&mut self, octets: &[u8]) {
        let kept = &octets[octets.len().saturating_sub(TAIL_BYTES)..];
        let too_many = (self.0.len() + kept.len()).saturating_sub(TAIL_BYTES);
        self.0.drain(..too_many);
        self.0.extend(kept);
    }

    fn text(self) -> String {
        String::from_utf8_lossy(&Vec::from(self.0)).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_what_was_printed_is_kept() {
        let mut tail = Tail::default();
        tail.add(&[b'a'; 100]);
        tail.add(&[b'b'; TAIL_BYTES - 50]);
        let text = tail.text();
        assert_eq!((text.len(), text.matches('a').count()), (TAIL_BYTES, 50));
        let mut tail = Tail::default();
        tail.add(&[b'c'; 3 * TAIL_BYTES]);
        assert_eq!(tail.text().len(), TAIL_BYTES);
    }
}
