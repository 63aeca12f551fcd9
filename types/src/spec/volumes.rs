//! Volumes of an app: folders that outlive its instances, and what they may ask for.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};

use super::AppSpec;
use super::validate::{InvalidSpec, Validated, at_most, invalid, validate_mount};
use crate::name::VolumeName;
use crate::quantity::ByteSize;

/// Each is a handle that every store of the app keeps open.
const VOLUMES_MAX: usize = 16;
/// Room for a few files; less is most likely a mistake in the unit.
const SIZE_MIN: ByteSize = ByteSize::mib(1);
/// More than a disk has, and small enough to be added up.
const SIZE_MAX: ByteSize = ByteSize::mib(1 << 30);

/// A folder of the app on its node. It is empty when the app first runs, and keeps what guests write into it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct VolumeSpec {
    /// Tells the app's volumes apart. Another name is another volume.
    pub name: VolumeName,
    /// The folder where the guest sees it, such as `/data`.
    pub path: String,
    /// What its files may take; 1 MiB to 1 PiB. Each file and folder counts as its length and 4 KiB.
    #[serde(default = "default_size")]
    pub size: ByteSize,
    /// Whether the guest can only read it.
    #[serde(default)]
    pub read_only: bool,
    /// Whether several instances may write to it at once. Without this the app has one instance, which ends before another starts.
    #[serde(default)]
    pub shared: bool,
}

fn default_size() -> ByteSize {
    VolumeSpec::SIZE_DEFAULT
}

impl VolumeSpec {
    /// What its files may take where nobody says how much.
    pub const SIZE_DEFAULT: ByteSize = ByteSize::mib(1024);

    /// Whether an instance must be the only one that writes to it.
    pub fn is_exclusive(&self) -> bool {
        !self.read_only && !self.shared
    }

    /// Whether an instance that has this volume cannot live beside one that has `other`.
    pub fn excludes(&self, other: &Self) -> bool {
        let both_write = !self.read_only && !other.read_only;
        self.name == other.name && both_write && (self.is_exclusive() || other.is_exclusive())
    }
}

impl AppSpec {
    /// A volume because of which there can be one instance only.
    pub fn exclusive_volume(&self) -> Option<&VolumeSpec> {
        self.volumes.iter().find(|volume| volume.is_exclusive())
    }

    /// Whether there can be one instance only, which ends before another starts.
    pub fn is_exclusive(&self) -> bool {
        self.scale.singleton || self.exclusive_volume().is_some()
    }

    /// Whether no instance of these settings may live beside one of the others: one of the two is to be alone, or both would write to a volume
    /// that is not shared.
    pub fn excludes(&self, other: &Self) -> bool {
        let shares = |volume: &VolumeSpec| other.volumes.iter().any(|other| volume.excludes(other));
        self.scale.singleton || other.scale.singleton || self.volumes.iter().any(shares)
    }

    /// Checks that the app can have so many instances; `field` says who asks for them.
    pub fn validate_replicas(&self, field: &str, replicas: u32) -> Result<(), InvalidSpec> {
        if self.is_global() {
            let problem = format!(
                "{replicas} instances cannot be asked of an app that has one on every node (`scale.replicas = \"global\"`): \
                 `placement.constraints` says on which nodes, `wharf stop` stops it, and a deploy with a number in `scale.replicas` gives it one"
            );
            return invalid(field, problem);
        }
        if self.scale.singleton && replicas > 1 {
            let problem = format!(
                "{replicas} instances are too many for an app with `scale.singleton`, of which there is never more than one; leave one of the two out"
            );
            return invalid(field, problem);
        }
        let Some(volume) = self.exclusive_volume().filter(|_| replicas > 1) else { return Ok(()) };
        let problem = format!(
            "{replicas} instances cannot write to the volume `{}` at once; set `shared = true` in it if the app is made for that, \
             or `read_only = true`",
            volume.name
        );
        invalid(field, problem)
    }

    pub(super) fn validate_volumes(&self) -> Validated {
        at_most("volumes", "volumes", self.volumes.len(), VOLUMES_MAX)?;
        let mut names = HashSet::new();
        for volume in &self.volumes {
            let VolumeSpec { name, path, size, read_only, shared } = volume;
            if !names.insert(name) {
                return invalid("volumes.name", format!("there are two volumes named `{name}`"));
            }
            validate_mount(&format!("volumes.{name}.path"), path)?;
            let field = format!("volumes.{name}.size");
            if *size < SIZE_MIN {
                return invalid(&field, format!("{size} is less than {SIZE_MIN}"));
            }
            if *size > SIZE_MAX {
                return invalid(&field, format!("{size} is more than {SIZE_MAX}"));
            }
            if *read_only && *shared {
                let problem = "is about instances that write, and the volume is `read_only`";
                return invalid(&format!("volumes.{name}.shared"), problem);
            }
        }
        for (index, volume) in self.volumes.iter().enumerate() {
            for other in &self.volumes[..index] {
                if overlap(&volume.path, &other.path) {
                    let problem = format!("`{}` and `{}` lie within each other", volume.path, other.path);
                    return invalid(&format!("volumes.{}.path", volume.name), problem);
                }
            }
        }
        if let Some(files) = &self.files {
            validate_files(&files.mount, &self.volumes)?;
        }
        if self.is_global() {
            return Ok(());
        }
        let field = self.scale.replicas.range().map_or("scale.replicas", |_| "scale.replicas.max");
        self.validate_replicas(field, self.scale.replicas.most())
    }
}

/// Checks that the folder of the app's files is none of its volumes, nor within one, nor around one.
pub fn validate_files(mount: &str, volumes: &[VolumeSpec]) -> Result<(), InvalidSpec> {
    let Some(volume) = volumes.iter().find(|volume| overlap(mount, &volume.path)) else { return Ok(()) };
    let problem = format!(
        "`{}` and the app's files at `{mount}` lie within each other; give the files a folder of their own, such as \
         `mount = \"/public\"` in `[files]`",
        volume.path
    );
    invalid(&format!("volumes.{}.path", volume.name), problem)
}

/// Whether one of two folders is the other or lies within it.
fn overlap(one: &str, other: &str) -> bool {
    let is_within = |inner: &str, outer: &str| {
        let rest = inner.strip_prefix(outer.trim_end_matches('/'));
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    is_within(one, other) || is_within(other, one)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::{FilesSpec, ScaleSpec};

    fn volume(name: &str, path: &str) -> VolumeSpec {
        VolumeSpec {
            name: name.parse().unwrap(),
            path: path.to_owned(),
            size: default_size(),
            read_only: false,
            shared: false,
        }
    }

    fn refused(volumes: &[VolumeSpec]) -> String {
        let spec = AppSpec { volumes: volumes.to_vec(), ..AppSpec::default() };
        spec.validate().unwrap_err().to_string()
    }

    #[test]
    fn a_volume_without_a_sense_is_refused_by_its_name() {
        assert!(refused(&[volume("data", "data")]).starts_with("volumes.data.path: `data` is not"));
        assert!(refused(&[volume("data", "/data/../etc")]).starts_with("volumes.data.path: "));
        assert_eq!(
            refused(&[volume("data", "/a"), volume("data", "/b")]),
            "volumes.name: there are two volumes named `data`"
        );
        let sized = |size| refused(&[VolumeSpec { size, ..volume("data", "/data") }]);
        assert_eq!(sized(ByteSize::bytes(0)), "volumes.data.size: 0B is less than 1MiB");
        assert!(sized(ByteSize::bytes(u64::MAX)).ends_with("is more than 1048576GiB"));
        let both = VolumeSpec { read_only: true, shared: true, ..volume("data", "/data") };
        assert!(refused(&[both]).starts_with("volumes.data.shared: "));
        let many: Vec<_> = (0..17).map(|n| volume(&format!("v{n}"), &format!("/v{n}"))).collect();
        assert_eq!(refused(&many), "volumes: 17 volumes in all, more than 16");
    }

    #[test]
    fn folders_that_a_guest_sees_never_lie_within_each_other() {
        for (one, other, overlaps) in [
            ("/a", "/b", false),
            ("/a", "/ab", false),
            ("/a/b", "/a/c", false),
            ("/a", "/a", true),
            ("/a", "/a/b", true),
            ("/a/b", "/a", true),
            ("/", "/a", true),
        ] {
            assert_eq!(overlap(one, other), overlaps, "{one} {other}");
            let mut spec =
                AppSpec { volumes: vec![volume("x", one), volume("y", other)], ..AppSpec::default() };
            assert_eq!(spec.validate().is_err(), overlaps, "{one} {other}");
            spec.volumes.pop();
            let digest = crate::Digest::of(b"");
            spec.files = Some(FilesSpec { digest, mount: other.to_owned() });
            assert_eq!(spec.validate().is_err(), overlaps, "files at {other}, a volume at {one}");
        }
    }

    #[test]
    fn several_instances_write_only_to_what_is_shared() {
        let with = |volume| AppSpec {
            scale: ScaleSpec { replicas: 2.into(), ..ScaleSpec::default() },
            volumes: vec![volume],
            ..AppSpec::default()
        };
        let error = with(volume("data", "/data")).validate().unwrap_err();
        assert_eq!(error.field, "scale.replicas");
        assert!(error.problem.contains("`data`") && error.problem.contains("shared = true"), "{error}");
        with(VolumeSpec { shared: true, ..volume("data", "/data") }).validate().unwrap();
        with(VolumeSpec { read_only: true, ..volume("data", "/data") }).validate().unwrap();
    }

    #[test]
    fn two_writers_exclude_each_other_unless_both_share() {
        let one = volume("data", "/data");
        let shared = VolumeSpec { shared: true, ..one.clone() };
        let reader = VolumeSpec { read_only: true, ..one.clone() };
        assert!(one.excludes(&one) && one.excludes(&shared) && shared.excludes(&one));
        assert!(!shared.excludes(&shared) && !one.excludes(&reader) && !reader.excludes(&one));
        assert!(!one.excludes(&volume("other", "/data")));
    }
}
