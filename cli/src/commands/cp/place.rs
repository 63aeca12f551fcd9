//! Where something is copied from or to, and whose it is there, as they are written.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use wharf_types::copy::{CopySpec, CopyWay};
use wharf_types::{AppName, InstanceId};

use crate::exit::Failure;

/// Where something is copied from or to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    There(There),
    Here(PathBuf),
    /// stdin or stdout.
    Stream,
}

/// A path in a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct There {
    pub app: AppName,
    /// None: the lowest that is ready.
    pub slot: Option<u32>,
    pub path: String,
}

/// Users and groups of a container are numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    pub uid: u32,
    pub gid: u32,
}

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "-" {
            return Ok(Self::Stream);
        }
        let Some((head, path)) = text.split_once(':').filter(|(head, _)| !head.contains('/')) else {
            return Ok(Self::Here(text.into()));
        };
        let (app, slot) = match head.split_once('.') {
            Some((app, slot)) => (app, Some(slot)),
            None => (head, None),
        };
        let app = app.parse::<AppName>().map_err(|error| {
            format!("`{app}` names no app: {error}; a path here that has a `:` is written as `./{text}`")
        })?;
        let slot = slot.map(|slot| match slot.parse() {
            Ok(slot @ 1..) => Ok(slot),
            _ => Err(format!("`{slot}` is no slot: slots are counted from 1")),
        });
        if !path.starts_with('/') {
            return Err(format!("`{path}`: paths in a container begin with `/`"));
        }
        Ok(Self::There(There { app, slot: slot.transpose()?, path: path.to_owned() }))
    }
}

impl FromStr for Owner {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (uid, gid) = text.split_once(':').unwrap_or((text, text));
        match (uid.parse(), gid.parse()) {
            (Ok(uid), Ok(gid)) => Ok(Self { uid, gid }),
            _ => Err(format!("`{text}` is no owner: write numbers, such as `1000` or `1000:100`")),
        }
    }
}

impl fmt::Display for There {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.slot {
            Some(slot) => write!(f, "{}.{slot}:{}", self.app, self.path),
            None => write!(f, "{}:{}", self.app, self.path),
        }
    }
}

impl There {
    pub(super) fn spec(&self, way: CopyWay, instance: Option<InstanceId>) -> anyhow::Result<CopySpec> {
        let spec = CopySpec { way, path: self.path.clone(), slot: self.slot, instance };
        spec.validate().map_err(|error| Failure::usage(error.to_string()))?;
        Ok(spec)
    }

    /// The last part of its path.
    pub(super) fn name(&self) -> &str {
        self.path.trim_end_matches('/').rsplit('/').next().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn there(app: &str, slot: Option<u32>, path: &str) -> Place {
        Place::There(There { app: app.parse().unwrap(), slot, path: path.to_owned() })
    }

    #[test]
    fn a_place_is_in_a_container_here_or_a_stream() {
        for (text, place) in [
            ("web:/etc/a", there("web", None, "/etc/a")),
            ("web.2:/a:b/", there("web", Some(2), "/a:b/")),
            ("-", Place::Stream),
            ("a/b:/c", Place::Here("a/b:/c".into())),
            ("./web:/etc", Place::Here("./web:/etc".into())),
            ("file.txt", Place::Here("file.txt".into())),
        ] {
            assert_eq!(text.parse(), Ok(place), "{text}");
        }
        for (text, words) in [
            ("web:etc", "begin with `/`"),
            ("web.0:/a", "counted from 1"),
            ("web.x:/a", "`x` is no slot"),
            ("No App:/a", "`./No App:/a`"),
        ] {
            let error = text.parse::<Place>().unwrap_err();
            assert!(error.contains(words), "{text}: {error}");
        }
        assert_eq!("7".parse(), Ok(Owner { uid: 7, gid: 7 }));
        assert_eq!("7:8".parse(), Ok(Owner { uid: 7, gid: 8 }));
        assert!("root".parse::<Owner>().is_err() && "7:".parse::<Owner>().is_err());
    }
}
