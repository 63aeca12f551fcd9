//! Starts bubblewrap: as ourselves, or as a user of the build's own where we are root.
//!
//! Root hands the build over to a user that nothing else belongs to. That user cannot reach most of what the build is to see, so root first
//! binds it, in mounts of the new process alone, to where that user gets to.

use std::ffi::{CStr, CString, OsStr, OsString};
use std::fs::File;
use std::io::{self, PipeReader, PipeWriter, Seek as _, Write as _};
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::fcntl::OFlag;
use nix::libc;
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::stat::Mode;

use super::mounts::{Handles, MADE_FILES, Mount, View, arguments};
use crate::plan::BuildLimits;

/// Where mounts are put for the build's user, over whatever is there; only bubblewrap sees it.
const STAGE: &str = "/tmp";
/// As nice(1) has it: the platform comes first.
const NICENESS: i32 = 10;
const OPEN_FILES_MAX: u64 = 4096;
/// Processes of bubblewrap itself.
const OF_BUBBLEWRAP: u64 = 2;

/// The ends of what connects us with bubblewrap.
#[derive(Debug)]
pub(crate) struct Control {
    /// First a line with the number of the build's first process, and in the end one with its exit code.
    pub(crate) status: PipeReader,
    /// The build begins when there is something to read.
    pub(crate) start: PipeWriter,
    /// Processes that the sandbox may have, if that is to be set once it is there: a user who has others, too, may have no more of them than
    /// that, but for the ones in a user namespace.
    pub(crate) processes_max: Option<u64>,
}

/// What is needed to start a build in a sandbox.
pub(crate) struct Launch<'a> {
    pub(crate) bwrap: &'a Path,
    pub(crate) view: View,
    pub(crate) command: &'a str,
    pub(crate) uid: Option<u32>,
    pub(crate) limits: &'a BuildLimits,
    /// Whether each process is to be bounded, because there is no group for all.
    pub(crate) bound_each_memory: bool,
    pub(crate) doors: Vec<File>,
}

/// A place in the stage, and what is bound there.
struct Staged {
    place: CString,
    is_folder: bool,
    path: CString,
    /// The same by the number of an open file, because the stage hides what is below it.
    source: CString,
    open: OwnedFd,
}

/// What the new process does with itself before it becomes bubblewrap. All of it is made beforehand: between fork and exec nothing may be
/// allocated.
struct Before {
    doors: Vec<File>,
    rlimits: Vec<(Resource, u64, u64)>,
    staged: Vec<Staged>,
    uid: Option<u32>,
    /// Open for as long as the command is.
    inherited: Vec<OwnedFd>,
}

impl Launch<'_> {
    /// The command, and what connects us with it. Where it prints to is up to the caller.
    pub(crate) fn prepare(mut self) -> io::Result<(Command, Control)> {
        let (status, status_end) = io::pipe()?;
        let (start_end, start) = io::pipe()?;
        let made_files: Vec<File> =
            MADE_FILES.iter().map(|(_, content)| in_memory(content.as_bytes())).collect::<io::Result<_>>()?;
        let staged = match self.uid {
            Some(_) => stage(&mut self.view.mounts)?,
            None => Vec::new(),
        };
        let handles = Handles {
            status: status_end.as_raw_fd(),
            block: start_end.as_raw_fd(),
            made_files: made_files.iter().map(|file| file.as_raw_fd()).collect(),
        };
        // Through a file, because everybody may read the command lines of others.
        let options = in_memory(&joined(&arguments(&self.view, &handles))?)?;
        let mut command = Command::new(self.bwrap);
        command.args(["--args", &options.as_raw_fd().to_string(), "--", "/bin/sh", "-c", self.command]);
        command.env_clear().current_dir("/").stdin(Stdio::null());
        let files = made_files.into_iter().chain([options]).map(OwnedFd::from);
        let inherited = files.chain([OwnedFd::from(status_end), OwnedFd::from(start_end)]).collect();
        let rlimits = self.rlimits()?;
        let before = Before { doors: self.doors, rlimits, staged, uid: self.uid, inherited };
        // SAFETY: it makes nothing but system calls, of values that exist already.
        unsafe { command.pre_exec(move || before.run()) };
        let processes_max = self.uid.is_none().then_some(self.limits.processes_max);
        Ok((command, Control { status, start, processes_max }))
    }

    /// Soft and hard limits. None is raised, which would need a right that we may not have.
    fn rlimits(&self) -> io::Result<Vec<(Resource, u64, u64)>> {
        let limits = self.limits;
        let cpu_max_secs = limits.cpu_max.as_secs().max(1);
        let mut wanted = vec![
            // At the soft limit the signal says which one it was; at the hard one it would be SIGKILL.
            (Resource::RLIMIT_CPU, cpu_max_secs, cpu_max_secs.saturating_add(5)),
            (Resource::RLIMIT_FSIZE, limits.disk_max_bytes, limits.disk_max_bytes),
            (Resource::RLIMIT_CORE, 0, 0),
            (Resource::RLIMIT_NOFILE, OPEN_FILES_MAX, OPEN_FILES_MAX),
            (Resource::RLIMIT_MEMLOCK, 0, 0),
        ];
        if self.uid.is_some() {
            let max = limits.processes_max.saturating_add(OF_BUBBLEWRAP);
            wanted.push((Resource::RLIMIT_NPROC, max, max));
        }
        if self.bound_each_memory {
            // Not the address space: engines for JavaScript and WebAssembly reserve far more of that than they ever use.
            wanted.push((Resource::RLIMIT_DATA, limits.memory_max_bytes, limits.memory_max_bytes));
        }
        let within = |(resource, soft, hard): (Resource, u64, u64)| {
            let (_, max) = getrlimit(resource)?;
            Ok((resource, soft.min(max), hard.min(max)))
        };
        wanted.into_iter().map(within).collect()
    }
}

impl Before {
    fn run(&self) -> io::Result<()> {
        for mut door in &self.doors {
            door.write_all(b"0")?;
        }
        for &(resource, soft, hard) in &self.rlimits {
            setrlimit(resource, soft, hard)?;
        }
        // SAFETY: a plain system call; 0 means this process. That it cannot be nicer is no reason to fail.
        unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, NICENESS) };
        // The platform does without them for itself, and compilers gain by them.
        let _ = nix::sys::prctl::set_thp_disable(false);
        // Where memory runs out on the whole machine, the platform is not what has to go.
        let _ = write_to(c"/proc/self/oom_score_adj", b"1000");
        if let Some(uid) = self.uid {
            set_stage(&self.staged)?;
            become_user(uid)?;
        }
        // Whoever started this process may have left files open, which are nothing for a stranger. Kernels before 5.11 cannot do this.
        // SAFETY: a plain system call, which closes nothing before exec.
        unsafe { libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC) };
        for file in &self.inherited {
            // SAFETY: a plain system call on a file that stays open.
            check(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETFD, 0) })?;
        }
        Ok(())
    }
}

/// Makes places for mounts, and lets the mounts come from there.
fn stage(mounts: &mut [Mount]) -> io::Result<Vec<Staged>> {
    let mut staged = Vec::with_capacity(mounts.len());
    for (number, mount) in mounts.iter_mut().enumerate() {
        let open = nix::fcntl::open(&mount.source, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty());
        let named =
            |error| io::Error::other(format!("{}: {}", mount.source.display(), io::Error::from(error)));
        let open = open.map_err(named)?;
        let place = PathBuf::from(format!("{STAGE}/{number}"));
        staged.push(Staged {
            place: c_string(place.as_os_str())?,
            is_folder: mount.source.is_dir(),
            path: c_string(mount.source.as_os_str())?,
            source: c_string(OsStr::new(&format!("/proc/self/fd/{}", open.as_raw_fd())))?,
            open,
        });
        mount.source = place;
    }
    Ok(staged)
}

fn set_stage(staged: &[Staged]) -> io::Result<()> {
    let none = std::ptr::null();
    // SAFETY: here and below, system calls with pointers to strings that end with 0 and live longer than the call, or null.
    unsafe {
        check(libc::unshare(libc::CLONE_NEWNS))?;
        check(libc::mount(none, c"/".as_ptr(), none, libc::MS_REC | libc::MS_PRIVATE, none.cast()))?;
        // What was opened before belongs to mounts of others, and can be bound nowhere here.
        for Staged { path, open, .. } in staged {
            let again = libc::open(path.as_ptr(), libc::O_PATH | libc::O_CLOEXEC);
            check(again)?;
            check(libc::dup3(again, open.as_raw_fd(), libc::O_CLOEXEC))?;
        }
        let options = c"mode=0755,size=64k";
        check(libc::mount(
            c"tmpfs".as_ptr(),
            c"/tmp".as_ptr(),
            c"tmpfs".as_ptr(),
            0,
            options.as_ptr().cast(),
        ))?;
    }
    for Staged { place, is_folder, source, .. } in staged {
        // SAFETY: as above.
        unsafe {
            if *is_folder {
                check(libc::mkdir(place.as_ptr(), 0o755))?;
            } else {
                check(libc::mknod(place.as_ptr(), libc::S_IFREG | 0o644, 0))?;
            }
            check(libc::mount(
                source.as_ptr(),
                place.as_ptr(),
                none,
                libc::MS_BIND | libc::MS_REC,
                none.cast(),
            ))?;
        }
    }
    Ok(())
}

/// For good: root and all of its capabilities are gone.
fn become_user(uid: u32) -> io::Result<()> {
    // SAFETY: plain system calls; the list of groups is empty.
    unsafe {
        check(libc::setgroups(0, std::ptr::null()))?;
        check(libc::setresgid(uid, uid, uid))?;
        check(libc::setresuid(uid, uid, uid))?;
    }
    Ok(())
}

/// Without anything that allocates.
fn write_to(path: &CStr, content: &[u8]) -> io::Result<()> {
    // SAFETY: system calls with a string that ends with 0, and with memory that is there; the file is closed by its owner.
    unsafe {
        let fd = libc::open(path.as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC);
        check(fd)?;
        File::from_raw_fd(fd).write_all(content)
    }
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn joined(words: &[OsString]) -> io::Result<Vec<u8>> {
    let mut joined = Vec::new();
    for word in words {
        joined.extend_from_slice(c_string(word)?.as_bytes_with_nul());
    }
    Ok(joined)
}

fn c_string(text: &OsStr) -> io::Result<CString> {
    CString::new(text.as_bytes()).map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))
}

/// A file without a name, at its beginning.
fn in_memory(content: &[u8]) -> io::Result<File> {
    let mut file = File::from(memfd_create(c"wharf-build", MFdFlags::MFD_CLOEXEC)?);
    file.write_all(content)?;
    file.rewind()?;
    Ok(file)
}

/// A handle to a process, which never comes to mean another one.
pub(crate) fn open_process(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: a plain system call, which returns a new file that nobody else has.
    unsafe {
        let fd = libc::syscall(libc::SYS_pidfd_open, pid, 0) as RawFd;
        check(fd)?;
        Ok(OwnedFd::from_raw_fd(fd))
    }
}

pub(crate) fn kill_process(process: &OwnedFd) {
    let (none, signal) = (std::ptr::null::<libc::siginfo_t>(), libc::SIGKILL);
    // SAFETY: a plain system call. That it has ended already is fine.
    unsafe { libc::syscall(libc::SYS_pidfd_send_signal, process.as_raw_fd(), signal, none, 0) };
}

/// Bounds the processes that a process and its children may have, within their own user namespace.
pub(crate) fn bound_processes(pid: i32, max: u64) -> io::Result<()> {
    let limit = libc::rlimit { rlim_cur: max, rlim_max: max };
    // SAFETY: a system call that reads one structure, and writes none.
    check(unsafe { libc::prlimit(pid, libc::RLIMIT_NPROC, &limit, std::ptr::null_mut()) })
}

/// Whether there is something to read, or an end, within a time.
pub(crate) fn wait_until_readable(file: BorrowedFd<'_>, limit: Duration) -> bool {
    let deadline = Instant::now() + limit;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let millis = i32::try_from(left.as_millis()).unwrap_or(i32::MAX);
        let mut files = libc::pollfd { fd: file.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: a system call that writes one structure, which is there.
        match unsafe { libc::poll(&mut files, 1, millis) } {
            ..0 if io::Error::last_os_error().kind() == io::ErrorKind::Interrupted => {}
            ready => return ready > 0,
        }
    }
}

pub(super) fn is_root() -> bool {
    // SAFETY: a system call that cannot fail.
    unsafe { libc::geteuid() == 0 }
}
