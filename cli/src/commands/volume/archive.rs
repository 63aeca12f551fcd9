//! `wharf volume backup` and `restore`: a volume's data in a tar archive.
//!
//! An archive is whole or it is an error: the platform says when one has ended, in either direction.

use std::convert::Infallible;
use std::ffi::OsString;
use std::future::pending;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::Context as _;
use clap::Args;
use tokio::fs::File;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use wharf_types::api::{VolumeInfo, VolumeState};
use wharf_types::exec::Frame;
use wharf_types::transfer::Restored;
use wharf_types::{AppName, NamespaceName, VolumeId, VolumeName};

use super::super::confirm_that;
use crate::exit::{Exit, Failure};
use crate::output::{self, bytes};
use crate::said::{Of, Said};
use crate::session::Session;

const BACKUP: Of = Of {
    what: "backup",
    broken: "the platform went away, or this token may not read the volume any more; try again",
};
const RESTORE: Of = Of {
    what: "restore",
    broken: "the volume is as it was, unless all had been sent: look at it before you try again",
};
/// What is read at once.
const CHUNK_BYTES: usize = 64 << 10;
/// What the name of a backup ends in until it is whole.
const INCOMPLETE: &str = ".incomplete";

#[derive(Args, Debug)]
pub struct BackupArgs {
    /// Its id, or the names of its app and of itself
    #[arg(value_name = "ID|APP/NAME")]
    pub volume: VolumeRef,
    /// The file to write [default: stdout, unless that is a terminal]
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
}

#[derive(Args, Debug)]
pub struct RestoreArgs {
    /// Its id, or the names of its app and of itself
    #[arg(value_name = "ID|APP/NAME")]
    pub volume: VolumeRef,
    /// The archive; `-` is stdin
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Do not ask
    #[arg(short, long)]
    pub yes: bool,
}

/// A volume as people name it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VolumeRef {
    Id(VolumeId),
    Named(AppName, VolumeName),
}

impl FromStr for VolumeRef {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('/') {
            Some((app, name)) => {
                let app = app.parse::<AppName>().map_err(|error| format!("`{app}` names no app: {error}"))?;
                let name = name
                    .parse::<VolumeName>()
                    .map_err(|error| format!("`{name}` names no volume: {error}"))?;
                Ok(Self::Named(app, name))
            }
            None => text.parse().map(Self::Id).map_err(|_| {
                format!("`{text}` is no volume: write its id, or APP/NAME; `wharf volume ls` lists them")
            }),
        }
    }
}

/// Which of the volumes is meant. What an app has goes before what one of its name has left.
pub(super) fn choose(
    volumes: Vec<VolumeInfo>,
    wanted: &VolumeRef,
    namespace: &NamespaceName,
) -> Result<VolumeInfo, Failure> {
    let (app, name) = match wanted {
        VolumeRef::Id(id) => {
            return volumes.into_iter().find(|volume| volume.id == *id).ok_or_else(|| {
                let message = format!("there is no volume {id} in the namespace `{namespace}`");
                Failure::new(Exit::NotFound, message).help("`wharf volume ls` lists them")
            });
        }
        VolumeRef::Named(app, name) => (app, name),
    };
    let mut named: Vec<VolumeInfo> =
        volumes.into_iter().filter(|volume| volume.app == *app && volume.name == *name).collect();
    if let Some(at) = named.iter().position(|volume| volume.state == VolumeState::Attached) {
        return Ok(named.swap_remove(at));
    }
    if named.len() > 1 {
        let ids: Vec<String> = named.iter().map(|volume| volume.id.to_string()).collect();
        let message = format!("apps named `{app}` have left {} volumes `{name}`", named.len());
        return Err(Failure::usage(message).help(format!("name one by its id: {}", ids.join(", "))));
    }
    named.pop().ok_or_else(|| {
        let message = format!("the app `{app}` has no volume `{name}` in the namespace `{namespace}`");
        Failure::new(Exit::NotFound, message).help("`wharf volume ls` lists them")
    })
}

pub(super) async fn backup(session: &Session, args: BackupArgs) -> anyhow::Result<()> {
    if args.output.is_none() && output::stdout_is_terminal() {
        return Err(Failure::usage("an archive is nothing for a terminal")
            .help("name a file, `-o FILE.tar`, or pipe it into something")
            .into());
    }
    if args.output.is_none() && session.json {
        return Err(Failure::usage("--json needs -o, because the archive itself is on stdout").into());
    }
    let namespace = session.namespace()?;
    let volume = choose(session.client.volumes(&namespace).await?, &args.volume, &namespace)?;
    let connection = session.client.back_up_volume(&namespace, volume.id).await?;
    // Closing the way there would end it.
    let (from, _to) = tokio::io::split(connection);
    let Some(file) = args.output else {
        receive(from, &mut tokio::io::stdout()).await?;
        return Ok(());
    };
    let written = receive_into(from, &file).await?;
    if session.json {
        return output::json(&serde_json::json!({
            "id": volume.id, "app": volume.app, "name": volume.name, "file": file.display().to_string(), "bytes": written,
        }));
    }
    output::line(format!(
        "the volume {} of {} is in {}, {}",
        volume.name,
        volume.app,
        file.display(),
        bytes(written)
    ))
}

/// Writes the archive beside its place, where it comes when it is whole.
async fn receive_into(from: impl AsyncRead + Unpin, file: &Path) -> anyhow::Result<u64> {
    let mut draft = OsString::from(file);
    draft.push(INCOMPLETE);
    let draft = PathBuf::from(draft);
    let could_not = || format!("could not write {}", draft.display());
    let mut options = File::options();
    // Whoever else is on this machine has no business with the app's data.
    options.write(true).create(true).truncate(true).mode(0o600);
    let mut to = options.open(&draft).await.with_context(could_not)?;
    let received = async {
        let written = receive(from, &mut to).await?;
        to.sync_all().await.with_context(could_not)?;
        tokio::fs::rename(&draft, file)
            .await
            .with_context(|| format!("could not write {}", file.display()))?;
        Ok::<u64, anyhow::Error>(written)
    };
    let received = received.await;
    if received.is_err() {
        let _ = tokio::fs::remove_file(&draft).await;
    }
    received
}

/// Writes the archive as it comes, and returns how long it is.
async fn receive(from: impl AsyncRead + Unpin, to: &mut (impl AsyncWrite + Unpin)) -> anyhow::Result<u64> {
    let (mut said, mut written) = (Said::new(from, BACKUP), 0);
    while let Some(octets) = said.next().await? {
        to.write_all(&octets).await.context("could not write the archive, which is not whole")?;
        written += octets.len() as u64;
    }
    to.flush().await.context("could not write the archive, which is not whole")?;
    Ok(written)
}

pub(super) async fn restore(session: &Session, args: RestoreArgs) -> anyhow::Result<()> {
    let is_stdin = args.file == Path::new("-");
    if is_stdin && io::IsTerminal::is_terminal(&io::stdin()) {
        return Err(Failure::usage("there is no archive on stdin, but a terminal").into());
    }
    let archive: Box<dyn AsyncRead + Send + Unpin> = match is_stdin {
        true => Box::new(tokio::io::stdin()),
        false => Box::new(open(&args.file).await?),
    };
    let namespace = session.namespace()?;
    let volume = choose(session.client.volumes(&namespace).await?, &args.volume, &namespace)?;
    let (name, app) = (&volume.name, &volume.app);
    let doing = format!("replacing what the volume `{name}` of `{app}` holds");
    let does = format!("This replaces all that the volume `{name}` of `{app}` holds.");
    confirm_that((&doing, &does), name.as_str(), args.yes)?;
    let connection = session.client.restore_volume(&namespace, volume.id).await?;
    let (from, to) = tokio::io::split(connection);
    let restored = tokio::select! {
        biased;
        restored = restored(from) => restored?,
        failed = send(archive, to) => match failed? {},
    };
    if session.json {
        return output::json(&serde_json::json!({
            "id": volume.id, "app": app, "name": name, "entries": restored.entries, "bytes": restored.bytes,
        }));
    }
    output::line(format!(
        "the volume {name} of {app} holds what is in the archive: {} files, folders and links, {}",
        restored.entries,
        bytes(restored.bytes)
    ))
}

async fn open(file: &Path) -> anyhow::Result<File> {
    match File::open(file).await {
        Ok(opened) => Ok(opened),
        Err(error) => Err(Failure::invalid(format!("could not open {}: {error}", file.display())).into()),
    }
}

/// Sends the archive, and that it has ended. Ends only with an error, after which the volume stays as it was.
async fn send(
    mut archive: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
) -> anyhow::Result<Infallible> {
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        let read =
            archive.read(&mut chunk).await.context("could not read the archive; the volume is as it was")?;
        let frame = Frame::Stdin(chunk[..read].to_vec()).encode();
        if to.write_all(&frame).await.is_err() || to.flush().await.is_err() || read == 0 {
            // What became of it is said, or was.
            return pending().await;
        }
    }
}

async fn restored(from: impl AsyncRead + Unpin) -> anyhow::Result<Restored> {
    let (mut said, mut answer) = (Said::new(from, RESTORE), Vec::new());
    while let Some(octets) = said.next().await? {
        answer = octets;
    }
    serde_json::from_slice(&answer).context("what the platform says is no answer to this")
}

#[cfg(test)]
mod tests {
    use wharf_types::problem::ProblemCode;
    use wharf_types::{Problem, Timestamp};

    use super::*;

    fn volume(app: &str, state: VolumeState) -> VolumeInfo {
        VolumeInfo {
            id: VolumeId::new(),
            name: "data".parse().unwrap(),
            app: app.parse().unwrap(),
            state,
            node: None,
            size_bytes: 1,
            used_bytes: None,
            full: false,
            created_at: Timestamp::now(),
        }
    }

    fn octets(frames: &[Frame]) -> Vec<u8> {
        frames.iter().flat_map(Frame::encode).collect()
    }

    #[test]
    fn a_volume_is_named_by_its_id_or_with_its_app() {
        let id = VolumeId::new();
        assert_eq!(id.to_string().parse(), Ok(VolumeRef::Id(id)));
        assert_eq!(
            "notes/data".parse(),
            Ok(VolumeRef::Named("notes".parse().unwrap(), "data".parse().unwrap()))
        );
        for text in ["notes", "", "/data", "notes/", "a/b/c"] {
            assert!(text.parse::<VolumeRef>().is_err(), "{text}");
        }
    }

    #[test]
    fn of_several_volumes_of_a_name_the_apps_own_is_meant_or_none() {
        let namespace = NamespaceName::default_namespace();
        let named: VolumeRef = "notes/data".parse().unwrap();
        let (own, left, other) = (
            volume("notes", VolumeState::Attached),
            volume("notes", VolumeState::Kept),
            volume("other", VolumeState::Attached),
        );
        let chosen = |volumes: &[&VolumeInfo], wanted: &VolumeRef| {
            choose(volumes.iter().map(|it| (*it).clone()).collect(), wanted, &namespace).map(|it| it.id)
        };
        assert_eq!(chosen(&[&left, &own, &other], &named).unwrap(), own.id);
        assert_eq!(chosen(&[&left, &other], &named).unwrap(), left.id);
        let two = [&left, &volume("notes", VolumeState::Kept)];
        assert!(chosen(&two, &named).unwrap_err().to_string().contains("have left 2 volumes"));
        assert!(chosen(&[&other], &named).is_err());
        assert_eq!(chosen(&[&own, &left], &VolumeRef::Id(left.id)).unwrap(), left.id);
    }

    #[tokio::test]
    async fn a_backup_without_its_end_is_no_file() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.tar");
        std::fs::write(&file, "the one before").unwrap();
        let half = [Frame::Stdout(b"half".to_vec())];
        let error = receive_into(&octets(&half)[..], &file).await.unwrap_err();
        assert_eq!(Exit::of(&error), Exit::Unreachable);
        let gone = [&half[..], &[Frame::Error(Problem::new(ProblemCode::Conflict, "removed"))]].concat();
        assert!(receive_into(&octets(&gone)[..], &file).await.is_err());
        assert_eq!(std::fs::read(&file).unwrap(), b"the one before");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
        let whole = [&half[..], &[Frame::Ping, Frame::Stdout(b" more".to_vec()), Frame::Exit(0)]].concat();
        assert_eq!(receive_into(&octets(&whole)[..], &file).await.unwrap(), 9);
        assert_eq!(std::fs::read(&file).unwrap(), b"half more");
    }

    #[tokio::test]
    async fn what_is_sent_of_an_archive_has_an_end() {
        let mut sent = Vec::new();
        let sending = send(&b"archive"[..], &mut sent);
        let _ = tokio::time::timeout(std::time::Duration::from_millis(50), sending).await;
        assert_eq!(sent, octets(&[Frame::Stdin(b"archive".to_vec()), Frame::Stdin(Vec::new())]));
        let answer = Frame::Stdout(br#"{"entries":2,"bytes":8192}"#.to_vec());
        let ended = restored(&octets(&[answer.clone(), Frame::Exit(0)])[..]).await.unwrap();
        assert_eq!(ended, Restored { entries: 2, bytes: 8192 });
        assert!(restored(&octets(&[answer])[..]).await.is_err());
    }
}
