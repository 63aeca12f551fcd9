//! Files on their way out of a container of an app, or into one.
//!
//! They go in the frames of [`crate::exec`], as a tar archive: out of a container it is stdout; into one it is stdin, whose end is an empty
//! frame, and what is said before is a [`Landing`]. `Exit` is the end of a whole copy; anything else is none.

use serde::{Deserialize, Serialize};

use crate::id::{ExecId, InstanceId};

/// The longest archive, in octets.
pub const COPY_MAX_BYTES: u64 = 4 << 30;
/// As the kernel has it.
const PATH_MAX_BYTES: usize = 4095;

/// `POST …/apps/{app}/copy`: what is to be copied, and which of the app's containers it is about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CopySpec {
    pub way: CopyWay,
    /// A path in the container, from `/` on. With `/` at its end it is that of a folder.
    pub path: String,
    /// In the instance of this slot, counted from 1. Null, and no `instance`: the lowest slot that is ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slot: Option<u32>,
    /// In this instance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<InstanceId>,
}

/// Which way it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum CopyWay {
    Out,
    In,
}

/// Why nothing can be copied like this.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidCopy {
    #[error("path: paths in a container begin with `/`")]
    Relative,
    #[error("path: write it without `.` and `..`")]
    Dots,
    #[error("path: it takes no NUL character, and at most {PATH_MAX_BYTES} octets")]
    Path,
    #[error("path: name a file or a folder below `/`")]
    Root,
    #[error("slot and instance: say one of the two")]
    Both,
    #[error("slot: slots are counted from 1")]
    SlotZero,
}

impl CopySpec {
    /// Checks what the field types do not.
    pub fn validate(&self) -> Result<(), InvalidCopy> {
        if !self.path.starts_with('/') {
            return Err(InvalidCopy::Relative);
        }
        if self.path.contains('\0') || self.path.len() > PATH_MAX_BYTES {
            return Err(InvalidCopy::Path);
        }
        if self.path.split('/').any(|part| matches!(part, "." | "..")) {
            return Err(InvalidCopy::Dots);
        }
        if self.way == CopyWay::Out && self.path.bytes().all(|octet| octet == b'/') {
            return Err(InvalidCopy::Root);
        }
        match (self.slot, self.instance) {
            (Some(_), Some(_)) => Err(InvalidCopy::Both),
            (Some(0), None) => Err(InvalidCopy::SlotZero),
            _ => Ok(()),
        }
    }
}

/// What a worker is told of a copy, one JSON document a line. It then comes for the rest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopyOrder {
    pub id: ExecId,
    pub instance: InstanceId,
    pub way: CopyWay,
    pub path: String,
}

/// What is at the path that something is copied to, with links followed. The worker says it in JSON before anything is sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "found", rename_all = "snake_case")]
pub enum Landing {
    /// What comes is put into it, by the names that it has in the archive.
    Folder,
    /// What comes takes its place, so it is a file, by this name in the archive.
    File { name: String },
    /// What comes has this name in the archive.
    Nothing { name: String },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_could_copy_is_refused() {
        let spec =
            |way, path: &str| CopySpec { way, path: path.to_owned(), slot: None, instance: None }.validate();
        let out = |path: &str| spec(CopyWay::Out, path);
        assert_eq!((out("/etc"), out("/srv/a..b/.c/"), spec(CopyWay::In, "/")), (Ok(()), Ok(()), Ok(())));
        assert_eq!((out("etc"), out("")), (Err(InvalidCopy::Relative), Err(InvalidCopy::Relative)));
        assert_eq!((out("/a/../b"), out("/a/.")), (Err(InvalidCopy::Dots), Err(InvalidCopy::Dots)));
        assert_eq!((out("/"), out("//")), (Err(InvalidCopy::Root), Err(InvalidCopy::Root)));
        assert_eq!(out("/a\0"), Err(InvalidCopy::Path));
        assert_eq!(out(&format!("/{}", "a".repeat(PATH_MAX_BYTES))), Err(InvalidCopy::Path));
        let of =
            |slot, instance| CopySpec { way: CopyWay::Out, path: "/a".to_owned(), slot, instance }.validate();
        assert_eq!(of(Some(0), None), Err(InvalidCopy::SlotZero));
        assert_eq!(of(Some(1), Some(InstanceId::new())), Err(InvalidCopy::Both));
    }

    #[test]
    fn what_is_at_a_path_is_said_in_words_that_stay() {
        for (landing, written) in [
            (Landing::Folder, r#"{"found":"folder"}"#),
            (Landing::File { name: "a".into() }, r#"{"found":"file","name":"a"}"#),
            (Landing::Nothing { name: "b".into() }, r#"{"found":"nothing","name":"b"}"#),
        ] {
            assert_eq!(serde_json::to_string(&landing).unwrap(), written);
            assert_eq!(serde_json::from_str::<Landing>(written).unwrap(), landing);
        }
    }
}
