//! Claims of volumes. A volume belongs to one app, so a claim does, too.

use std::collections::BTreeMap;

use wharf_types::quantity::ByteSize;

use crate::at::{At, Manifest};
use crate::finding::Sink;
use crate::kind::Kind;
use crate::quantity::bytes;
use crate::review::{column, review};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// One instance at a time.
    One,
    Many,
    ReadOnly,
}

#[derive(Clone, Debug)]
pub(crate) struct Claim {
    pub(crate) size: Option<ByteSize>,
    pub(crate) access: Access,
    /// What was refused of it is told where it stands; without that it would be another volume than was meant.
    pub(crate) is_refused: bool,
    /// The manifest whose app has it.
    pub(crate) user: Option<(usize, String)>,
}

pub(crate) type Claims = BTreeMap<(Option<String>, String), Claim>;

pub(crate) fn claims(manifests: &[Manifest], sink: &mut Sink) -> Claims {
    let mut claims = Claims::new();
    for manifest in manifests.iter().filter(|manifest| manifest.kind == Kind::PersistentVolumeClaim) {
        review(manifest, column(false), sink);
        let claim = claim(&manifest.root(), sink);
        claims.insert((manifest.namespace.clone(), manifest.name.clone()), claim);
    }
    claims
}

/// What a claim, or a template of claims, asks for.
pub(crate) fn claim(at: &At<'_>, sink: &mut Sink) -> Claim {
    let size = at.get("spec.resources.requests.storage").and_then(|storage| bytes(&storage, sink));
    if at.text("spec.volumeMode") == Some("Block") {
        sink.refuse(&at.near("spec.volumeMode"), "a volume is a folder, and no device; write `Filesystem`");
    }
    let modes = at.texts("spec.accessModes");
    for item in at.items("spec.accessModes") {
        let known = ["ReadWriteOnce", "ReadWriteOncePod", "ReadWriteMany", "ReadOnlyMany"];
        if !known.contains(&item.word()) {
            let list = known.map(|mode| format!("`{mode}`")).join(", ");
            sink.refuse(&item, format!("it is no access mode; there are {list}"));
        }
    }
    let access = match modes[..] {
        _ if modes.contains(&"ReadWriteMany") => Access::Many,
        ["ReadOnlyMany"] => Access::ReadOnly,
        _ => Access::One,
    };
    Claim { size, access, is_refused: sink.is_refused(at.manifest.number), user: None }
}

/// Claims that nobody mounts make nothing.
pub(crate) fn tell_unused(manifests: &[Manifest], claims: &Claims, sink: &mut Sink) {
    for manifest in manifests.iter().filter(|manifest| manifest.kind == Kind::PersistentVolumeClaim) {
        let claim = claims.get(&(manifest.namespace.clone(), manifest.name.clone()));
        if claim.is_some_and(|claim| claim.user.is_none()) && !sink.is_refused(manifest.number) {
            let message =
                "no app of these files mounts it, and a volume is made with its app; it is left out";
            sink.notice(&manifest.root(), message);
        }
    }
}
