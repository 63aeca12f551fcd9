//! What a container sees beside its image: volumes, folders in memory, and folders of its node.

use wharf_types::quantity::ByteSize;
use wharf_types::spec::{HostPathSpec, TmpfsSpec, VolumeSpec};

use crate::keys::TMPFS_MODE;
use crate::model::{Mount, TmpfsOptions};
use crate::problem::shown;
use crate::quantity;
use crate::translate::sink::Sink;
use crate::translate::{One, volumes};

#[derive(Default)]
pub(super) struct Mounts {
    pub(super) volumes: Vec<VolumeSpec>,
    pub(super) host_paths: Vec<HostPathSpec>,
    pub(super) tmpfs: Vec<TmpfsSpec>,
}

pub(super) fn mounts(one: &One<'_>, sink: &mut Sink) -> Mounts {
    let mut made = Mounts::default();
    for (index, mount) in one.settings.volumes.iter().enumerate() {
        let place = one.item("volumes", index).clone();
        let problem = match mount.kind.as_str() {
            "volume" => volumes::of_mount(one, mount).map(|(volume, notice)| {
                notice.into_iter().for_each(|notice| sink.notice(&place, notice));
                made.volumes.push(volume);
            }),
            "bind" => of_node(mount).and_then(|path| alone(one, path)).map(|path| made.host_paths.push(path)),
            "tmpfs" => in_memory(mount).map(|tmpfs| made.tmpfs.push(tmpfs)),
            "image" => {
                Err("`image`: no image is mounted into another; copy what is in it into the service's own"
                    .to_owned())
            }
            kind => Err(format!(
                "`{}`: a volume is a folder that the platform keeps; write `type: volume`",
                shown(kind)
            )),
        };
        if let Err(message) = problem {
            sink.problem(&place, message);
        }
    }
    for (index, text) in one.settings.tmpfs.iter().enumerate() {
        match tmpfs(text) {
            Ok(tmpfs) => {
                if tmpfs.mode.is_some() {
                    sink.notice(one.item("tmpfs", index), format!("`mode`: {TMPFS_MODE}"));
                }
                made.tmpfs.push(tmpfs);
            }
            Err(message) => sink.problem(one.item("tmpfs", index), message),
        }
    }
    made
}

fn of_node(mount: &Mount) -> Result<HostPathSpec, String> {
    let host = mount.source.clone().unwrap_or_default();
    if !host.starts_with('/') {
        return Err(format!(
            "`{}` is on the machine that deploys, and instances run on nodes: put it into the image, make a file of it a config \
             (`configs`), or name a folder of the nodes by its absolute path",
            shown(&host)
        ));
    }
    Ok(HostPathSpec { host, path: mount.target.clone(), read_only: mount.read_only })
}

/// A preview writes to nothing that the stack has as well.
fn alone(one: &One<'_>, path: HostPathSpec) -> Result<HostPathSpec, String> {
    if one.context.preview.is_none() || path.read_only {
        return Ok(path);
    }
    Err(format!(
        "`{}`: a preview would write to a folder of the node that the stack writes to; mount it `:ro`, or let the stack keep its data in a volume, of \
         which a preview has one of its own",
        shown(&path.host)
    ))
}

fn in_memory(mount: &Mount) -> Result<TmpfsSpec, String> {
    if mount.read_only {
        return Err("a folder in memory that cannot be written to is empty; leave `read_only` out".to_owned());
    }
    let TmpfsOptions { mode, size } = mount.tmpfs.clone().unwrap_or_default();
    // 0 is any size.
    Ok(TmpfsSpec { path: mount.target.clone(), size: size.filter(|size| size.as_bytes() > 0), mode })
}

/// `/run:size=64m,mode=1777`.
fn tmpfs(text: &str) -> Result<TmpfsSpec, String> {
    let (path, options) = text.split_once(':').unwrap_or((text, ""));
    let mut made = TmpfsSpec { path: path.to_owned(), size: None, mode: None };
    for option in options.split(',').filter(|option| !option.is_empty()) {
        match option.split_once('=') {
            Some(("size", size)) => made.size = Some(size_of(size)?),
            Some(("mode", mode))
                if !mode.is_empty() && mode.bytes().all(|digit| (b'0'..=b'7').contains(&digit)) =>
            {
                made.mode = Some(mode.to_owned());
            }
            // As each of them is.
            None if matches!(option, "rw" | "noexec" | "nosuid" | "nodev") => {}
            _ => {
                return Err(format!(
                    "`{}`: a folder in memory has a size and a mode, such as `/run:size=64m,mode=1777`; leave it out",
                    shown(option)
                ));
            }
        }
    }
    Ok(made)
}

fn size_of(text: &str) -> Result<ByteSize, String> {
    let canonical = quantity::size(text).map_err(|problem| format!("`size={}` {problem}", shown(text)))?;
    canonical.parse().map_err(|_| format!("`size={}` is not a size", shown(text)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_in_memory_has_a_size_and_a_mode() {
        let of = |text| {
            let TmpfsSpec { path, size, mode } = tmpfs(text).unwrap();
            (path, size.map(|size| size.to_string()), mode)
        };
        assert_eq!(of("/tmp"), ("/tmp".into(), None, None));
        assert_eq!(
            of("/run:rw,noexec,size=64m,mode=1777"),
            ("/run".into(), Some("64MiB".into()), Some("1777".into()))
        );
        for (text, reason) in [
            ("/tmp:exec", "`exec`: a folder in memory has"),
            ("/tmp:uid=70", "`uid=70`"),
            ("/tmp:mode=9", "`mode=9`"),
            ("/tmp:size=10%", "`size=10%` is not a size"),
        ] {
            let message = tmpfs(text).unwrap_err();
            assert!(message.starts_with(reason), "{text}: {message}");
        }
    }
}
