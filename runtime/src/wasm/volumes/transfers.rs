//! Volumes that people write to archives, or fill from them.
//!
//! One task follows the orders of the control plane; each transfer then has a connection of its own. A backup may be made of a volume that is
//! in use. A restore is not: nobody has the volume until it has ended, what comes is put beside it, and only a whole archive takes its place.

use std::fs::{self, DirBuilder, File};
use std::future::pending;
use std::io::{self, Read, Write};
use std::os::fd::AsFd as _;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _, fchown};
use std::path::Path;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::warn;
use wharf_types::exec::{Decoder, FRAME_MAX_BYTES, Frame};
use wharf_types::problem::ProblemCode;
use wharf_types::transfer::{Owners, Restored, Transfer, TransferOrder};
use wharf_types::{ExecId, Problem, ProcessId, VolumeId};

use super::archive::TarError;
use super::backup::{BackupError, back_up};
use super::remove::remove_tree;
use super::restore::{Limits, RestoreError, unpack};
use super::{BEFORE, CLAIM_TIMEOUT, RESTORING, Volume, Volumes, is_aside, is_held, take_back};
use crate::control::ControlClient;
use crate::control::orders::Orders;
use crate::orders::{Carrier, Follower, ToServer, Told, ping};

/// Between looks at who still has a volume.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// How long the disk may take to come to an end with what nobody wants any more.
const END_MAX: Duration = Duration::from_secs(10);
/// What is said of single files; of more it is only said how many there are.
const NOTICES_MAX: usize = 50;
/// Pieces of an archive that wait for the disk.
const PIECES_MAX: usize = 4;

/// Whether nothing is left of a process before this one that could write to volumes.
pub type IsClean = Arc<dyn Fn() -> bool + Send + Sync>;

/// Carries out the transfers.
pub struct Transfers {
    volumes: Arc<Volumes>,
    is_clean: IsClean,
}

impl Transfers {
    pub fn spawn(
        control: ControlClient,
        process: ProcessId,
        volumes: Arc<Volumes>,
        is_clean: IsClean,
    ) -> Follower {
        Follower::spawn(control, process, Self { volumes, is_clean })
    }
}

impl Carrier for Transfers {
    const KIND: Orders = Orders::Transfers;
    type Order = TransferOrder;

    fn id(order: &TransferOrder) -> ExecId {
        order.id
    }

    async fn carry_out(
        &self,
        order: TransferOrder,
        told: &mut Told,
        to_server: &ToServer,
        cancel: &CancellationToken,
    ) -> Option<Frame> {
        // One that nobody wants any more is stopped alone.
        let stop = cancel.child_token();
        match order.transfer {
            Transfer::Backup => send(&self.volumes, order.volume, told, to_server, stop).await,
            Transfer::Restore { size_bytes, owners } => {
                let limits = Limits::new(size_bytes, owners);
                match begin(&self.volumes, order.volume, &self.is_clean).await {
                    Ok(restoring) => take(restoring, limits, told, to_server, stop).await,
                    Err(problem) => Some(Frame::Error(problem)),
                }
            }
        }
    }
}

/// Sends what a volume holds. Returns what is to be said last.
async fn send(
    volumes: &Volumes,
    id: VolumeId,
    told: &mut Told,
    to_server: &ToServer,
    stop: CancellationToken,
) -> Option<Frame> {
    let (path, sender) = (volumes.folder(id), to_server.clone());
    let (to, stopped) = (ToClient { to: to_server.clone(), stop: stop.clone() }, stop.clone());
    let mut work = tokio::task::spawn_blocking(move || back_up_folder(&path, to, &sender));
    let done = tokio::select! {
        done = &mut work => Some(done),
        // Whoever gets an archive says nothing, so this is their end.
        () = async { while let Some(Ok(_)) = told.next().await {} } => None,
        () = ping(to_server) => None,
        () = stopped.cancelled() => {
            settle(stop, work).await;
            return Some(stopping());
        }
    };
    match done {
        Some(Ok(Ok(()))) => Some(Frame::Exit(0)),
        Some(Ok(Err(problem))) => Some(Frame::Error(problem)),
        Some(Err(error)) => Some(fault(&error)),
        None => {
            settle(stop, work).await;
            None
        }
    }
}

fn back_up_folder(path: &Path, to: ToClient, sender: &ToServer) -> Result<(), Problem> {
    let missing = || {
        let detail = "the node has no folder for the volume: no instance has started with it yet, or somebody has removed it there";
        Problem::new(ProblemCode::Conflict, detail)
    };
    let read = |error: io::Error| {
        let detail = format!("the volume's folder on the node cannot be read: {error}");
        Problem::new(ProblemCode::Internal, detail)
    };
    let root = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(missing()),
        opened => opened.map_err(read)?,
    };
    let mut notices = Notices::new(sender);
    let mut buffered = io::BufWriter::with_capacity(FRAME_MAX_BYTES, to);
    back_up(&root, &mut buffered, &mut |notice| notices.say(notice)).map_err(|error| {
        let code = match error {
            BackupError::TooDeep(_) | BackupError::LongPath(_) => ProblemCode::Conflict,
            BackupError::Read { .. } | BackupError::Send(_) => ProblemCode::Internal,
        };
        Problem::new(code, with_source(&error))
    })?;
    notices.finish();
    // What was removed or replaced meanwhile was not read to its end.
    let (read_from, now) = (root.metadata().map_err(read)?, fs::metadata(path).ok());
    if now.is_none_or(|now| (now.dev(), now.ino()) != (read_from.dev(), read_from.ino())) {
        let detail = "the volume was removed, or filled from another archive, while it was read";
        return Err(Problem::new(ProblemCode::Conflict, detail));
    }
    Ok(())
}

/// Waits until nobody has the volume, and keeps it so.
async fn begin(volumes: &Arc<Volumes>, id: VolumeId, is_clean: &IsClean) -> Result<Restoring, Problem> {
    let conflict = |detail: &str| Problem::new(ProblemCode::Conflict, detail);
    if !is_clean() {
        return Err(conflict(
            "the worker has just started, and containers of before may still write to the volume; try again in a moment",
        ));
    }
    let began = Instant::now();
    loop {
        match volumes.try_restore(id) {
            Ok(restoring) => return Ok(restoring),
            Err(Taken::ByInstance) if began.elapsed() < CLAIM_TIMEOUT => sleep(LOOK_AGAIN).await,
            Err(Taken::ByInstance) => {
                return Err(conflict(
                    "an instance on the node still has the volume; try again when it has ended",
                ));
            }
            Err(Taken::ByRestore) => {
                return Err(conflict(
                    "another archive is being put into the volume; wait until that has ended",
                ));
            }
        }
    }
}

/// Takes what a volume is to hold. Returns what is to be said last.
async fn take(
    restoring: Restoring,
    limits: Limits,
    told: &mut Told,
    to_server: &ToServer,
    stop: CancellationToken,
) -> Option<Frame> {
    let (pieces, from) = mpsc::channel(PIECES_MAX);
    let from = FromClient { from, piece: Bytes::new(), has_ended: false, stop: stop.clone() };
    let (sender, stopped) = (to_server.clone(), stop.clone());
    let mut work = tokio::task::spawn_blocking(move || restoring.fill(from, limits, &sender));
    let done = tokio::select! {
        done = &mut work => done,
        () = stopped.cancelled() => {
            settle(stop, work).await;
            return Some(stopping());
        }
        () = ping(to_server) => {
            settle(stop, work).await;
            return None;
        }
        // Where the pieces end, the work does.
        () = async { listen(told, pieces).await; pending().await } => return None,
    };
    match done {
        Ok(Ok(restored)) => {
            let said = serde_json::to_vec(&restored).expect("numbers are JSON");
            let _ = to_server.send(Frame::Stdout(said).encode().into()).await;
            Some(Frame::Exit(0))
        }
        Ok(Err(problem)) => Some(Frame::Error(problem)),
        Err(error) => Some(fault(&error)),
    }
}

/// Hands on the archive as it comes. What is cut off has no end here either.
async fn listen(told: &mut Told, pieces: mpsc::Sender<Piece>) {
    let mut decoder = Decoder::default();
    loop {
        let piece = match decoder.next_frame() {
            Ok(Some(Frame::Stdin(octets))) if octets.is_empty() => Piece::End,
            Ok(Some(Frame::Stdin(octets))) => Piece::Octets(octets.into()),
            Ok(Some(_)) => continue,
            Ok(None) => match told.next().await {
                Some(Ok(octets)) => {
                    decoder.push(&octets);
                    continue;
                }
                Some(Err(_)) | None => return,
            },
            Err(_) => return,
        };
        let is_last = matches!(piece, Piece::End);
        if pieces.send(piece).await.is_err() || is_last {
            return;
        }
    }
}

/// Has the work that nobody wants any more end.
async fn settle<T>(stop: CancellationToken, work: JoinHandle<T>) {
    stop.cancel();
    if timeout(END_MAX, work).await.is_err() {
        warn!("a volume's transfer that nobody wants any more still goes on");
    }
}

enum Piece {
    Octets(Bytes),
    End,
}

/// The archive as it comes.
struct FromClient {
    from: mpsc::Receiver<Piece>,
    piece: Bytes,
    has_ended: bool,
    stop: CancellationToken,
}

impl Read for FromClient {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() && !self.has_ended {
            match self.from.blocking_recv() {
                Some(Piece::Octets(octets)) => self.piece = octets,
                Some(Piece::End) => self.has_ended = true,
                None => return Err(io::ErrorKind::UnexpectedEof.into()),
            }
        }
        if self.stop.is_cancelled() {
            return Err(nobody());
        }
        let read = self.piece.len().min(buffer.len());
        buffer[..read].copy_from_slice(&self.piece.split_to(read));
        Ok(read)
    }
}

/// Where an archive goes.
struct ToClient {
    to: ToServer,
    stop: CancellationToken,
}

impl Write for ToClient {
    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        let octets = &octets[..octets.len().min(FRAME_MAX_BYTES)];
        if self.stop.is_cancelled() {
            return Err(nobody());
        }
        let frame = Frame::Stdout(octets.to_vec()).encode();
        self.to.blocking_send(frame.into()).map_err(|_| nobody())?;
        Ok(octets.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn nobody() -> io::Error {
    io::Error::new(io::ErrorKind::BrokenPipe, "nobody wants it any more")
}

/// What people should know of single files.
struct Notices<'a> {
    to: &'a ToServer,
    said: usize,
}

impl<'a> Notices<'a> {
    fn new(to: &'a ToServer) -> Self {
        Self { to, said: 0 }
    }

    fn say(&mut self, notice: String) {
        self.said += 1;
        if self.said <= NOTICES_MAX {
            self.send(notice);
        }
    }

    fn finish(self) {
        if self.said > NOTICES_MAX {
            self.send(format!("the same of {} more", self.said - NOTICES_MAX));
        }
    }

    fn send(&self, notice: String) {
        // If nobody listens, writing the archive finds that out.
        let _ = self.to.blocking_send(Frame::Stderr(format!("{notice}\n").into_bytes()).encode().into());
    }
}

/// Why a volume cannot be filled now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Taken {
    ByInstance,
    ByRestore,
}

impl Volumes {
    /// Takes a volume that nobody has. No instance gets it before the end of what this returns.
    fn try_restore(self: &Arc<Self>, id: VolumeId) -> Result<Restoring, Taken> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        // An instance that is about to have it knows the one, and one that has it the other.
        let in_use = |volume: &Arc<Volume>| Arc::strong_count(volume) > 1 || is_held(volume);
        if known.get(&id).is_some_and(in_use) {
            return Err(Taken::ByInstance);
        }
        if !self.restoring.lock().unwrap_or_else(PoisonError::into_inner).insert(id) {
            return Err(Taken::ByRestore);
        }
        // What is known is the folder that goes.
        known.remove(&id);
        Ok(Restoring { volumes: self.clone(), id })
    }
}

/// A volume that nobody has until this is dropped.
struct Restoring {
    volumes: Arc<Volumes>,
    id: VolumeId,
}

impl Drop for Restoring {
    fn drop(&mut self) {
        self.volumes.restoring.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.id);
    }
}

impl Restoring {
    /// Puts an archive in the place of what the volume holds. After an error the volume is as it was, or the error says what it is.
    fn fill(self, from: FromClient, limits: Limits, sender: &ToServer) -> Result<Restored, Problem> {
        let path = self.volumes.folder(self.id);
        let beside = path.with_extension(RESTORING);
        let stop = from.stop.clone();
        let mut notices = Notices::new(sender);
        let filled = make_beside(&path, &beside, limits.owners).map_err(|error| unusable(&error));
        let filled = filled.and_then(|folder| {
            let restored =
                unpack(io::BufReader::with_capacity(FRAME_MAX_BYTES, from), &folder, limits, &mut |notice| {
                    notices.say(notice);
                });
            let restored = restored.map_err(|error| explain(&error))?;
            // All of it is on the disk before it counts.
            nix::unistd::syncfs(folder.as_fd()).map_err(|errno| unusable(&errno.into()))?;
            if stop.is_cancelled() {
                return Err(Problem::new(ProblemCode::Unavailable, nobody().to_string()));
            }
            let sync = || File::open(&self.volumes.dir)?.sync_all();
            swap(&path, &beside, sync).map_err(SwapError::into_problem)?;
            Ok(restored)
        });
        notices.finish();
        // While what the volume held lies aside, this tells the next start that nothing has taken its place.
        if filled.is_err()
            && is_aside(&path).is_ok_and(|is_aside| !is_aside)
            && let Err(error) = remove_tree(&beside)
        {
            let beside = beside.display();
            warn!(
                "cannot remove what was left of an archive, {beside}, trying again at the next start: {error}"
            );
        }
        filled
    }
}

/// A new folder with the owner and mode of the volume's own, for archives that say nothing of these.
fn make_beside(path: &Path, beside: &Path, owners: Owners) -> io::Result<File> {
    // From here on, a folder of before is the one that this archive replaces.
    if !take_back(path)? {
        remove_tree(&path.with_extension(BEFORE))?;
    }
    remove_tree(beside)?;
    DirBuilder::new().mode(0o755).create(beside)?;
    let folder = File::open(beside)?;
    match fs::metadata(path) {
        Ok(own) => {
            let mode = match owners {
                Owners::Kept => {
                    fchown(&folder, Some(own.uid()), Some(own.gid()))?;
                    own.mode() & 0o7777
                }
                Owners::Worker => own.mode() & 0o777 | 0o700,
            };
            folder.set_permissions(fs::Permissions::from_mode(mode))?;
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    Ok(folder)
}

/// What has become of a volume whose archive has not taken its place as it should.
#[derive(Debug)]
enum SwapError {
    /// It is as it was.
    Undone(io::Error),
    /// What it held is whole, but lies aside.
    Aside(io::Error),
    /// The archive is in its place, and may not be on the disk.
    Unsure(io::Error),
}

impl SwapError {
    fn into_problem(self) -> Problem {
        let detail = match self {
            Self::Undone(error) => return unusable(&error),
            Self::Aside(error) => format!(
                "the volume's folder on the node cannot be used: {error}; what it held lies beside it and has to be put back: restart the worker, which does that"
            ),
            Self::Unsure(error) => format!(
                "the archive is in the volume's place, but may not survive a loss of power, because the disk failed: {error}; see to the disk, and restore again"
            ),
        };
        Problem::new(ProblemCode::Internal, detail)
    }
}

/// Puts a new folder in the place of a volume's. Whenever the machine stops, the next start finds one of the two.
fn swap(path: &Path, beside: &Path, sync: impl FnOnce() -> io::Result<()>) -> Result<(), SwapError> {
    let before = path.with_extension(BEFORE);
    let had_folder = match fs::rename(path, &before) {
        Ok(()) => true,
        Err(error) if error.kind() == io::ErrorKind::NotFound => false,
        Err(error) => return Err(SwapError::Undone(error)),
    };
    let put_back = |error: io::Error| match had_folder {
        true if fs::rename(&before, path).is_err() => SwapError::Aside(error),
        _ => SwapError::Undone(error),
    };
    if let Err(error) = fs::rename(beside, path) {
        return Err(put_back(error));
    }
    if let Err(error) = sync() {
        return Err(match fs::rename(path, beside) {
            Ok(()) => put_back(error),
            Err(_) => SwapError::Unsure(error),
        });
    }
    if let Err(error) = remove_tree(&before) {
        let before = before.display();
        warn!("cannot remove what a volume held before, {before}, trying again at the next start: {error}");
    }
    Ok(())
}

fn explain(error: &RestoreError) -> Problem {
    let code = match error {
        RestoreError::Archive(TarError::Read(_)) => ProblemCode::Unavailable,
        RestoreError::Archive(_) | RestoreError::Refused { .. } => ProblemCode::InvalidRequest,
        RestoreError::TooLarge { .. } | RestoreError::TooMany(_) => ProblemCode::StorageFull,
        RestoreError::Write { source, .. } => return unusable_with(with_source(error), source),
        RestoreError::Owner { .. } => ProblemCode::Conflict,
    };
    Problem::new(code, format!("{}; the volume is as it was", with_source(error)))
}

fn unusable(error: &io::Error) -> Problem {
    unusable_with(format!("the volume's folder on the node cannot be used: {error}"), error)
}

fn unusable_with(detail: String, error: &io::Error) -> Problem {
    let code = match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ProblemCode::StorageFull,
        _ => ProblemCode::Internal,
    };
    Problem::new(code, format!("{detail}; the volume is as it was"))
}

fn with_source(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

fn stopping() -> Frame {
    let detail = "the worker is stopping, so this was broken off; try again in a moment";
    Frame::Error(Problem::new(ProblemCode::Unavailable, detail))
}

fn fault(error: &tokio::task::JoinError) -> Frame {
    warn!("a volume's transfer failed inside: {error}");
    let detail = "the worker failed inside; its own log says more";
    Frame::Error(Problem::new(ProblemCode::Internal, detail))
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    /// A volume with one file, and what it is to hold instead.
    struct Case {
        _dir: TempDir,
        volumes: Arc<Volumes>,
        id: VolumeId,
        archive: Vec<u8>,
    }

    fn case() -> Case {
        let dir = tempfile::tempdir().unwrap();
        let volumes = Volumes::new(dir.path().join("volumes")).unwrap();
        let (id, other) = (VolumeId::new(), dir.path().join("other"));
        fs::create_dir(&other).unwrap();
        fs::write(other.join("new"), vec![7; 100_000]).unwrap();
        let mut archive = Vec::new();
        back_up(&File::open(&other).unwrap(), &mut archive, &mut |_| ()).unwrap();
        fs::create_dir(volumes.folder(id)).unwrap();
        fs::write(volumes.folder(id).join("old"), "1").unwrap();
        Case { _dir: dir, volumes, id, archive }
    }

    impl Case {
        fn is_as_it_was(&self) {
            assert_eq!(fs::read(self.volumes.folder(self.id).join("old")).unwrap(), b"1");
            assert_eq!(fs::read_dir(&self.volumes.dir).unwrap().count(), 1, "nothing is left beside it");
        }

        /// What becomes of an archive that comes like this.
        async fn fill(&self, frames: &[Frame], size_bytes: u64) -> Option<Frame> {
            let restoring = self.volumes.try_restore(self.id).unwrap();
            let octets: Vec<u8> = frames.iter().flat_map(Frame::encode).collect();
            let pieces: Vec<_> = octets.chunks(1000).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
            let mut told: Told = Box::pin(futures::stream::iter(pieces));
            let (to_server, mut said) = mpsc::channel(100);
            let limits = Limits::new(size_bytes, Owners::Worker);
            let last = take(restoring, limits, &mut told, &to_server, CancellationToken::new()).await;
            while said.try_recv().is_ok() {}
            last
        }

        fn frames(&self) -> Vec<Frame> {
            self.archive.chunks(10_000).map(|piece| Frame::Stdin(piece.to_vec())).collect()
        }
    }

    fn problem(last: Option<Frame>) -> Problem {
        match last {
            Some(Frame::Error(problem)) => problem,
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn a_whole_archive_takes_the_place_of_what_was_there() {
        let case = case();
        let frames = [case.frames(), vec![Frame::Stdin(Vec::new())]].concat();
        assert_eq!(case.fill(&frames, 1 << 20).await, Some(Frame::Exit(0)));
        let folder = case.volumes.folder(case.id);
        assert_eq!(fs::read(folder.join("new")).unwrap().len(), 100_000);
        assert!(!folder.join("old").exists());
        assert_eq!(fs::read_dir(&case.volumes.dir).unwrap().count(), 1);
    }

    #[tokio::test]
    async fn an_archive_that_is_cut_off_or_too_large_leaves_all_as_it_was() {
        let case = case();
        // Without the word that it has ended, a whole archive may be the beginning of another.
        assert_eq!(problem(case.fill(&case.frames(), 1 << 20).await).code, ProblemCode::InvalidRequest);
        case.is_as_it_was();
        let end = Frame::Stdin(Vec::new());
        let cut = [Frame::Stdin(case.archive[..50_000].to_vec()), end.clone()];
        let words = problem(case.fill(&cut, 1 << 20).await).detail;
        assert!(words.contains("was cut off") && words.contains("is as it was"), "{words}");
        case.is_as_it_was();
        let whole = [case.frames(), vec![end]].concat();
        assert_eq!(problem(case.fill(&whole, 50_000).await).code, ProblemCode::StorageFull);
        case.is_as_it_was();
    }

    #[tokio::test]
    async fn a_volume_is_filled_once_at_a_time_and_not_removed_meanwhile() {
        let case = case();
        let restoring = case.volumes.try_restore(case.id).unwrap();
        assert_eq!(case.volumes.try_restore(case.id).err(), Some(Taken::ByRestore));
        assert!(case.volumes.remove(case.id).await.is_err());
        drop(restoring);
        assert!(case.volumes.try_restore(case.id).is_ok());
    }

    #[tokio::test]
    async fn after_a_stop_in_the_middle_of_a_swap_the_next_start_has_what_was_there() {
        let case = case();
        let folder = case.volumes.folder(case.id);
        fs::rename(&folder, folder.with_extension(BEFORE)).unwrap();
        fs::create_dir(folder.with_extension(RESTORING)).unwrap();
        let volumes = Volumes::new(case.volumes.dir.clone()).unwrap();
        assert_eq!(fs::read(volumes.folder(case.id).join("old")).unwrap(), b"1");
        assert!(!folder.with_extension(BEFORE).exists());
    }

    #[tokio::test]
    async fn a_folder_that_was_made_between_both_renames_hides_nothing() {
        let case = case();
        let folder = case.volumes.folder(case.id);
        fs::rename(&folder, folder.with_extension(BEFORE)).unwrap();
        fs::create_dir(folder.with_extension(RESTORING)).unwrap();
        fs::create_dir(&folder).unwrap();
        let volumes = Volumes::new(case.volumes.dir.clone()).unwrap();
        assert_eq!(fs::read(volumes.folder(case.id).join("old")).unwrap(), b"1");
    }

    #[tokio::test]
    async fn where_the_disk_fails_the_volume_is_as_it_was_or_it_is_said_what_it_is() {
        let case = case();
        let folder = case.volumes.folder(case.id);
        let (beside, before) = (folder.with_extension(RESTORING), folder.with_extension(BEFORE));
        fs::create_dir(&beside).unwrap();
        fs::write(beside.join("new"), "2").unwrap();
        let fails = || io::Error::other("the disk");
        let undone = swap(&folder, &beside, || Err(fails())).unwrap_err();
        assert!(matches!(undone, SwapError::Undone(_)), "{undone:?}");
        assert_eq!(fs::read(folder.join("old")).unwrap(), b"1");
        assert!(beside.join("new").exists() && !before.exists());

        // Something is where the new one would go back to.
        let unsure = swap(&folder, &beside, || {
            fs::create_dir_all(beside.join("in the way"))?;
            Err(fails())
        });
        let unsure = unsure.unwrap_err();
        assert!(matches!(unsure, SwapError::Unsure(_)), "{unsure:?}");
        assert!(folder.join("new").exists() && before.join("old").exists());
        let words = unsure.into_problem().detail;
        assert!(words.contains("in the volume's place") && !words.contains("as it was"), "{words}");
    }

    #[tokio::test]
    async fn a_backup_is_whole_or_says_that_it_is_not() {
        let case = case();
        let (to, mut said) = mpsc::channel(100);
        let (folder, stop) = (case.volumes.folder(case.id), CancellationToken::new());
        let backup = |folder: std::path::PathBuf, to: ToServer, stop: CancellationToken| {
            tokio::task::spawn_blocking(move || {
                back_up_folder(&folder, ToClient { to: to.clone(), stop }, &to)
            })
        };
        backup(folder.clone(), to.clone(), stop.clone()).await.unwrap().unwrap();
        let mut decoder = Decoder::default();
        decoder.push(&said.try_recv().unwrap());
        assert!(matches!(decoder.next_frame(), Ok(Some(Frame::Stdout(_)))));
        let missing = folder.with_extension("missing");
        let problem = backup(missing, to.clone(), stop.clone()).await.unwrap().unwrap_err();
        assert_eq!(problem.code, ProblemCode::Conflict);
        stop.cancel();
        assert!(backup(folder, to, stop).await.unwrap().is_err());
    }
}
