//! Images of next to nothing: a static busybox, as `docker save` would write them.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use serde_json::{Value, json};
use wharf_docker::{Engine, ImageError, ImageId};
use wharf_types::Digest;

/// The owner of `/data` in the image.
pub(crate) const DATA_UID: u32 = 999;
pub(crate) const DATA_GID: u32 = 998;

pub(crate) struct Image {
    /// Makes it another image than every other.
    pub(crate) label: String,
    pub(crate) architecture: &'static str,
    pub(crate) config: Value,
    pub(crate) tags: Vec<String>,
    /// More than the shell, in octets that do not shrink.
    pub(crate) weight: usize,
}

impl Default for Image {
    fn default() -> Self {
        let architecture = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
        Self { label: String::new(), architecture, config: json!({}), tags: Vec::new(), weight: 0 }
    }
}

impl Image {
    pub(crate) fn layer(&self) -> Vec<u8> {
        let mut layer = shell().clone();
        if self.weight > 0 {
            let mut archive = tar::Builder::new(Vec::new());
            // Each label has octets of its own: pulls of one layer share a download in the engine, also with one that stalls.
            let mut state = self
                .label
                .bytes()
                .fold(1_u64, |state, octet| state.wrapping_mul(31).wrapping_add(octet.into()));
            let noise: Vec<u8> = std::iter::repeat_with(|| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (state >> 56) as u8
            })
            .take(self.weight)
            .collect();
            file(&mut archive, "weight", 0o644, &noise);
            layer.truncate(layer.len() - 1024); // the end of the archive before
            layer.extend(archive.into_inner().unwrap());
        }
        layer
    }

    pub(crate) fn config(&self, layer: &[u8]) -> Vec<u8> {
        let mut config = json!({"Env": ["PATH=/bin"], "Labels": {"test": self.label}});
        config.as_object_mut().unwrap().extend(self.config.as_object().unwrap().clone());
        let config = json!({
            "architecture": self.architecture,
            "os": "linux",
            "config": config,
            "rootfs": {"type": "layers", "diff_ids": [Digest::of(layer).to_string()]},
        });
        config.to_string().into_bytes()
    }

    pub(crate) fn archive(&self) -> Vec<u8> {
        let layer = self.layer();
        let config = self.config(&layer);
        let config_name = format!("{}.json", Digest::of(&config).hex());
        let manifest = json!([{"Config": config_name, "RepoTags": self.tags, "Layers": ["layer/layer.tar"]}]);
        let mut archive = tar::Builder::new(Vec::new());
        file(&mut archive, "layer/layer.tar", 0o644, &layer);
        file(&mut archive, &config_name, 0o644, &config);
        file(&mut archive, "manifest.json", 0o644, manifest.to_string().as_bytes());
        archive.into_inner().unwrap()
    }

    pub(crate) async fn load(&self, engine: &Engine, folder: &Path) -> Result<ImageId, ImageError> {
        let (path, digest) = written(folder, &self.archive());
        engine.load(&path, digest).await
    }
}

/// Writes an archive to a file.
pub(crate) fn written(folder: &Path, archive: &[u8]) -> (PathBuf, Digest) {
    let digest = Digest::of(archive);
    let path = folder.join(digest.hex());
    std::fs::write(&path, archive).unwrap();
    (path, digest)
}

fn shell() -> &'static Vec<u8> {
    static SHELL: OnceLock<Vec<u8>> = OnceLock::new();
    SHELL.get_or_init(|| {
        let busybox = std::fs::read("/bin/busybox")
            .expect("a static busybox is there: `scripts/docker.sh install` brings it");
        let mut archive = tar::Builder::new(Vec::new());
        folder(&mut archive, "data", 0o750, DATA_UID, DATA_GID);
        folder(&mut archive, "tmp", 0o1777, 0, 0);
        folder(&mut archive, "etc", 0o755, 0, 0);
        folder(&mut archive, "bin", 0o755, 0, 0);
        file(&mut archive, "bin/busybox", 0o755, &busybox);
        file(&mut archive, "etc/passwd", 0o644, b"root:x:0:0::/:/bin/sh\napp:x:1000:1000::/:/bin/sh\n");
        for name in [
            "sh", "sleep", "cat", "echo", "seq", "id", "ls", "grep", "stat", "dd", "nc", "wget", "tr",
            "head", "hostname", "mount", "touch", "ping", "yes",
        ] {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(tar::EntryType::Symlink);
            header.set_size(0);
            archive.append_link(&mut header, format!("bin/{name}"), "busybox").unwrap();
        }
        archive.into_inner().unwrap()
    })
}

fn file(archive: &mut tar::Builder<Vec<u8>>, path: &str, mode: u32, content: &[u8]) {
    let mut header = tar::Header::new_gnu();
    header.set_size(content.len() as u64);
    header.set_mode(mode);
    archive.append_data(&mut header, path, content).unwrap();
}

fn folder(archive: &mut tar::Builder<Vec<u8>>, path: &str, mode: u32, uid: u32, gid: u32) {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Directory);
    header.set_size(0);
    header.set_mode(mode);
    header.set_uid(uid.into());
    header.set_gid(gid.into());
    archive.append_data(&mut header, format!("{path}/"), io::empty()).unwrap();
}
