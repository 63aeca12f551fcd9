//! One build's processes, and the thread that keeps them.
//!
//! The thread is there for as long as the build, because the kernel ends a sandbox together with the thread that has started it. It also
//! holds what the processes use, and lets go of it only when all of them have ended, whatever has become of whoever waits.

use std::any::Any;
use std::io::{self, BufRead as _, BufReader, PipeReader, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, Command, ExitStatus};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::sys::signal::{Signal, kill, killpg};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;
use tokio::sync::oneshot;

use crate::sandbox::{Control, bound_processes, kill_process, open_process, wait_until_readable};

/// What bubblewrap may take to set up a sandbox, and the kernel to take it down.
const SETUP_MAX: Duration = Duration::from_secs(20);

/// How the command ended.
#[derive(Debug)]
pub(super) enum Exit {
    Code(i32),
    Signal(i32),
    /// The sandbox was not set up; what was printed last says why.
    NotStarted,
}

/// Ends with whoever drops it.
#[derive(Debug)]
pub(super) struct Process {
    state: Arc<Mutex<State>>,
    pub(super) exit: oneshot::Receiver<io::Result<Exit>>,
}

#[derive(Debug, Default)]
struct State {
    is_wanted_dead: bool,
    running: Option<Running>,
}

/// A child that has not been waited for, so that its number means nobody else.
#[derive(Debug)]
struct Running {
    pid: Pid,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    /// A sandbox that is being set up. Whoever wants it dead has to wait until it is clear what there is to kill.
    SettingUp,
    /// The first process in the sandbox, with which all others there end. None: there is none.
    Confined(Option<OwnedFd>),
    /// The leader of a process group.
    Unconfined,
}

pub(super) struct Start {
    pub(super) command: Command,
    /// None: it runs without a sandbox, in a process group of its own.
    pub(super) control: Option<Control>,
    /// Dropped when all has ended.
    pub(super) held: Box<dyn Any + Send>,
}

impl Process {
    pub(super) fn spawn(start: Start) -> io::Result<Self> {
        let state = Arc::new(Mutex::new(State::default()));
        let (exited, exit) = oneshot::channel();
        let kept = Arc::clone(&state);
        std::thread::Builder::new().name("build".to_owned()).spawn(move || {
            let Start { command, control, held } = start;
            let exit = keep(command, control, &kept);
            drop(held);
            // Nobody may wait any more.
            let _ = exited.send(exit);
        })?;
        Ok(Self { state, exit })
    }

    /// Ends all processes of the build, at once and for good.
    pub(super) fn kill(&self) {
        let mut state = locked(&self.state);
        state.is_wanted_dead = true;
        state.kill();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

impl State {
    /// What has ended already is left alone.
    fn kill(&self) {
        let Some(Running { pid, kind }) = &self.running else { return };
        match kind {
            Kind::SettingUp => {}
            Kind::Confined(first) => {
                first.iter().for_each(kill_process);
                let _ = kill(*pid, Signal::SIGKILL);
            }
            Kind::Unconfined => {
                let _ = killpg(*pid, Signal::SIGKILL);
            }
        }
    }

    fn set_kind(&mut self, kind: Kind) {
        if let Some(running) = &mut self.running {
            running.kind = kind;
        }
    }
}

fn keep(mut command: Command, control: Option<Control>, state: &Mutex<State>) -> io::Result<Exit> {
    let mut child = command.spawn()?;
    // Closes our ends of what the child has inherited.
    drop(command);
    let pid = Pid::from_raw(child.id().cast_signed());
    let kind = if control.is_some() { Kind::SettingUp } else { Kind::Unconfined };
    locked(state).running = Some(Running { pid, kind });
    let report = control.map(|control| let_begin(control, state));
    {
        let state = locked(state);
        if state.is_wanted_dead {
            state.kill();
        }
    }
    let status = wait(pid, &mut child, state)?;
    let is_started = report.is_none_or(has_exit_code);
    Ok(if is_started || status.signal().is_some() { exit_of(status) } else { Exit::NotStarted })
}

/// Bounds what waits in the sandbox and lets it begin, unless nobody wants it any more. Returns where its end is reported.
fn let_begin(control: Control, state: &Mutex<State>) -> BufReader<PipeReader> {
    let Control { status, mut start, processes_max } = control;
    let mut status = BufReader::new(status);
    let first = first_process(&mut status);
    let is_bounded = first
        .as_ref()
        .is_some_and(|(pid, _)| processes_max.is_none_or(|max| bound_processes(*pid, max).is_ok()));
    let mut state = locked(state);
    state.set_kind(Kind::Confined(first.map(|(_, process)| process)));
    state.is_wanted_dead |= !is_bounded;
    if state.is_wanted_dead {
        // Before `start` is closed, which would let it begin, too.
        state.kill();
    } else {
        // It may have failed meanwhile, which its end says.
        let _ = start.write_all(b"x");
    }
    status
}

/// Waits until the child has ended, and all that was in its sandbox.
fn wait(pid: Pid, child: &mut Child, state: &Mutex<State>) -> io::Result<ExitStatus> {
    // Leaves it a zombie, so that it can be killed by its number until the lock is held.
    while let Err(error) = waitid(Id::Pid(pid), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT) {
        if error != nix::errno::Errno::EINTR {
            return Err(error.into());
        }
    }
    let (status, running) = {
        let mut state = locked(state);
        // Whatever the command has left behind ends with it.
        state.kill();
        (child.wait(), state.running.take())
    };
    if let Some(Running { kind: Kind::Confined(Some(first)), .. }) = running {
        // The first process of a sandbox ends after all others in it.
        wait_until_readable(first.as_fd(), SETUP_MAX);
    }
    status
}

/// The first process in the sandbox, which waits for us, by number and by handle. None: there is none, and what is printed says why.
fn first_process(status: &mut BufReader<PipeReader>) -> Option<(i32, OwnedFd)> {
    if !wait_until_readable(status.get_ref().as_fd(), SETUP_MAX) {
        return None;
    }
    let mut line = String::new();
    status.read_line(&mut line).ok()?;
    let line: serde_json::Value = serde_json::from_str(&line).ok()?;
    let pid = i32::try_from(line.get("child-pid")?.as_i64()?).ok()?;
    Some((pid, open_process(pid).ok()?))
}

/// Whether bubblewrap says how the command ended; it does not where it could not start it.
fn has_exit_code(status: BufReader<PipeReader>) -> bool {
    let mut lines = status.lines().map_while(Result::ok);
    lines.any(|line| line.contains("\"exit-code\""))
}

fn locked(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

fn exit_of(status: ExitStatus) -> Exit {
    match (status.code(), status.signal()) {
        (Some(code), _) => Exit::Code(code),
        (None, signal) => Exit::Signal(signal.unwrap_or_default()),
    }
}
