//! How much a volume holds, and whether more fits.
//!
//! What adds to a volume is counted before it happens, as if it always made a file longer or added one; what takes away is not
//! counted at all. So the count is never less than the truth for long, and when it reaches the size the truth is looked up: the
//! folder is measured. Only if it really is full is a guest refused.
//!
//! What is renamed or linked while the folder is measured may move from where nobody has looked to where nobody looks again. A
//! measurement that this may have happened to never lowers the count, and one that decides about a guest keeps it from happening.

use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::{OwnedRwLockReadGuard, RwLock};
use tokio::time::{Instant, sleep_until, timeout};

use super::measure::{ENTRIES_MAX, Measured, measure};

/// What a file, folder or link counts beside its length: its last block is used in part only, and its name and inode take room.
pub(super) const ENTRY_BYTES: u64 = 4096;

/// Measuring takes at most this part of a guest's time: after a measurement nobody measures for so many times its length, or
/// at least for [`PAUSE_MIN`]. A guest whose volume is full waits meanwhile, up to [`PAUSE_MAX`].
const PAUSE_TIMES: u32 = 20;
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// A volume counts as full for this long at least, so that the worker's next report tells of it even if the guest makes room at once.
const TELL: Duration = Duration::from_secs(2);

/// Opened files that are remembered before those that were closed are forgotten.
const OPEN_MIN: usize = 64;

pub(super) struct Quota {
    root: Arc<File>,
    entries_max: usize,
    size: AtomicU64,
    used: AtomicU64,
    /// All that was ever added, so that a measurement knows what came while it was made.
    added: AtomicU64,
    touched: AtomicBool,
    /// What it held when a guest was refused last; 0: it was not, or something was deleted since then.
    full_at: AtomicU64,
    refused: Mutex<Option<Instant>>,
    /// Files that guests have open: what is unlinked takes room until it is closed.
    open: Mutex<Vec<Weak<File>>>,
    /// Renames and links that began, and that came to their end: equal, if none is under way.
    moves_begun: AtomicU64,
    moves_ended: AtomicU64,
    /// Held by each of them, and by a measurement that they wait for.
    moves: Arc<RwLock<()>>,
    /// When the folder may be measured again; held by who measures.
    next: tokio::sync::Mutex<Instant>,
}

/// A rename or a link, for as long as it is under way.
pub(super) struct Moving {
    quota: Arc<Quota>,
    _held: OwnedRwLockReadGuard<()>,
}

impl Drop for Moving {
    fn drop(&mut self) {
        self.quota.moves_ended.fetch_add(1, SeqCst);
    }
}

/// What renames do while the folder is measured.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Moves {
    GoOn,
    Wait,
}

impl Quota {
    pub(super) fn new(root: Arc<File>, size: u64) -> Self {
        Self {
            root,
            entries_max: ENTRIES_MAX,
            size: AtomicU64::new(size),
            used: AtomicU64::new(0),
            added: AtomicU64::new(0),
            touched: AtomicBool::new(false),
            full_at: AtomicU64::new(0),
            refused: Mutex::default(),
            open: Mutex::default(),
            moves_begun: AtomicU64::new(0),
            moves_ended: AtomicU64::new(0),
            moves: Arc::default(),
            next: tokio::sync::Mutex::new(Instant::now()),
        }
    }

    #[cfg(test)]
    pub(super) fn with_entries_max(self, entries_max: usize) -> Self {
        Self { entries_max, ..self }
    }

    pub(super) fn set_size(&self, size: u64) {
        self.size.store(size, Relaxed);
    }

    pub(super) fn size(&self) -> u64 {
        self.size.load(Relaxed)
    }

    pub(super) fn used(&self) -> u64 {
        self.used.load(Relaxed)
    }

    pub(super) fn is_full(&self) -> bool {
        let refused = *self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        self.full_at.load(Relaxed) > 0 || refused.is_some_and(|refused| refused.elapsed() < TELL)
    }

    /// What is not known is not less than this.
    pub(super) fn assume_full(&self) {
        self.used.fetch_max(self.size.load(Relaxed), Relaxed);
        self.full_at.store(u64::MAX, Relaxed);
        self.touched.store(true, Relaxed);
    }

    /// Counts what is about to be added; false, and nothing is counted, if it does not fit.
    pub(super) fn try_reserve(&self, bytes: u64) -> bool {
        self.touched.store(true, Relaxed);
        if bytes == 0 {
            return true;
        }
        let size = self.size.load(Relaxed);
        let grown = |used: u64| used.checked_add(bytes).filter(|used| *used <= size);
        let fits = self.used.try_update(Relaxed, Relaxed, grown).is_ok();
        if fits {
            self.added.fetch_add(bytes, Relaxed);
        }
        fits
    }

    /// The same, after a look at what was deleted meanwhile. The error is that of a full disk.
    pub(super) async fn reserve(&self, bytes: u64) -> io::Result<()> {
        if self.try_reserve(bytes) {
            return Ok(());
        }
        let mut next = self.next.lock().await;
        if self.try_reserve(bytes) {
            return Ok(());
        }
        sleep_until(*next).await;
        let measured = self.measure_now(&mut next, Moves::Wait).await;
        if measured.is_ok() && self.try_reserve(bytes) {
            return Ok(());
        }
        self.full_at.store(self.used().max(1), Relaxed);
        *self.refused.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        Err(no_space())
    }

    /// Remembers a file that a guest has opened.
    pub(super) fn opened(&self, file: &Arc<File>) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.len() >= OPEN_MIN && open.len() == open.capacity() {
            open.retain(|file| file.strong_count() > 0);
        }
        open.push(Arc::downgrade(file));
    }

    /// To be held by what gives a file or folder another name, until that is done.
    pub(super) async fn moving(self: &Arc<Self>) -> Moving {
        let held = self.moves.clone().read_owned().await;
        self.moves_begun.fetch_add(1, SeqCst);
        Moving { quota: self.clone(), _held: held }
    }

    pub(super) async fn measure_if_touched(&self) -> io::Result<()> {
        if self.touched.load(Relaxed) { self.measure().await } else { Ok(()) }
    }

    /// Looks up what the volume holds.
    pub(super) async fn measure(&self) -> io::Result<()> {
        let mut next = self.next.lock().await;
        self.measure_now(&mut next, Moves::GoOn).await
    }

    async fn measure_now(&self, next: &mut Instant, moves: Moves) -> io::Result<()> {
        self.touched.store(false, Relaxed);
        // A guest may leave a rename half done for as long as it likes, so the wait has an end; whether it helped is seen below.
        let _waiting = match moves {
            Moves::GoOn => None,
            Moves::Wait => timeout(PAUSE_MAX, self.moves.write()).await.ok(),
        };
        let began = Instant::now();
        let moves_ended = self.moves_ended.load(SeqCst);
        let added = self.added.load(Relaxed);
        let (root, entries_max) = (self.root.clone(), self.entries_max);
        let open: Vec<_> = {
            let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
            open.retain(|file| file.strong_count() > 0);
            open.iter().filter_map(Weak::upgrade).collect()
        };
        let measured = tokio::task::spawn_blocking(move || measure(&root, &open, entries_max)).await;
        let pause = (began.elapsed() * PAUSE_TIMES).clamp(PAUSE_MIN, PAUSE_MAX);
        *next = Instant::now() + pause;
        let held = match measured.map_err(io::Error::other)?? {
            Measured::Bytes(held) => held,
            Measured::TooMany => {
                self.assume_full();
                return Ok(());
            }
        };
        // What came meanwhile may have been seen or not.
        let meanwhile = self.added.load(Relaxed).wrapping_sub(added);
        let held_now = held.saturating_add(meanwhile);
        if self.moves_begun.load(SeqCst) != moves_ended {
            self.used.fetch_max(held_now, Relaxed);
            self.touched.store(true, Relaxed);
            return Ok(());
        }
        self.used.store(held_now, Relaxed);
        if held < self.full_at.load(Relaxed) {
            self.full_at.store(0, Relaxed);
        }
        Ok(())
    }
}

/// By how much a file grows if it is written up to `end`.
pub(super) fn growth(file: &File, end: u64) -> u64 {
    file.metadata().map_or(end, |metadata| end.saturating_sub(metadata.len()))
}

/// What guests get to know of a volume that is full, as from a disk that is.
pub(super) fn no_space() -> io::Error {
    io::Error::from_raw_os_error(nix::errno::Errno::ENOSPC as i32)
}
