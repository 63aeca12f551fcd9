//! The two services of a repository, and the words that HTTP has for them.

use std::str::FromStr;

/// What a client may ask a repository for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Service {
    /// Clone and fetch.
    UploadPack,
    /// Push.
    ReceivePack,
}

#[derive(Debug, thiserror::Error)]
#[error(
    "`{}` is not a service: ask for git-upload-pack or git-receive-pack, as git 1.6.6 and later do",
    .0.escape_debug()
)]
pub struct UnknownService(String);

impl Service {
    /// As in paths and in `?service=`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::UploadPack => "git-upload-pack",
            Self::ReceivePack => "git-receive-pack",
        }
    }

    /// `Content-Type` of the answer to `info/refs`. Without it, clients fall back to a protocol that is not served.
    pub const fn advertisement_type(self) -> &'static str {
        match self {
            Self::UploadPack => "application/x-git-upload-pack-advertisement",
            Self::ReceivePack => "application/x-git-receive-pack-advertisement",
        }
    }

    /// `Content-Type` of a request.
    pub const fn request_type(self) -> &'static str {
        match self {
            Self::UploadPack => "application/x-git-upload-pack-request",
            Self::ReceivePack => "application/x-git-receive-pack-request",
        }
    }

    /// `Content-Type` of the answer to a request.
    pub const fn result_type(self) -> &'static str {
        match self {
            Self::UploadPack => "application/x-git-upload-pack-result",
            Self::ReceivePack => "application/x-git-receive-pack-result",
        }
    }

    /// The name of git's own command.
    pub(crate) const fn command(self) -> &'static str {
        match self {
            Self::UploadPack => "upload-pack",
            Self::ReceivePack => "receive-pack",
        }
    }
}

impl FromStr for Service {
    type Err = UnknownService;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "git-upload-pack" => Ok(Self::UploadPack),
            "git-receive-pack" => Ok(Self::ReceivePack),
            other => Err(UnknownService(other.chars().take(50).collect())),
        }
    }
}

/// The version of git's protocol that a client asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Protocol {
    #[default]
    V0,
    V1,
    V2,
}

impl Protocol {
    /// Reads the header `Git-Protocol`. Whatever is not known is left out, as git does, so nothing of it ever reaches a process.
    pub fn from_header(value: Option<&str>) -> Self {
        let versions =
            value.unwrap_or_default().split(':').filter_map(|part| part.trim().strip_prefix("version="));
        versions
            .map(|version| match version {
                "1" => Self::V1,
                "2" => Self::V2,
                _ => Self::V0,
            })
            .max_by_key(|&version| version as u8)
            .unwrap_or_default()
    }

    /// The value of `GIT_PROTOCOL`.
    pub(crate) const fn variable(self) -> Option<&'static str> {
        match self {
            Self::V0 => None,
            Self::V1 => Some("version=1"),
            Self::V2 => Some("version=2"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_is_read_by_the_name_that_it_has() {
        for service in [Service::UploadPack, Service::ReceivePack] {
            assert_eq!(service.name().parse::<Service>().unwrap(), service);
        }
        assert!(
            "git-upload-archive".parse::<Service>().unwrap_err().to_string().contains("git-upload-archive")
        );
    }

    #[test]
    fn the_highest_known_version_counts_and_the_rest_is_left_out() {
        for (value, version) in [
            (None, Protocol::V0),
            (Some("version=2"), Protocol::V2),
            (Some("version=1:version=2:x"), Protocol::V2),
            (Some("version=9"), Protocol::V0),
            (Some("version=2\0x"), Protocol::V0),
            (Some("$(reboot)"), Protocol::V0),
        ] {
            assert_eq!(Protocol::from_header(value), version, "{value:?}");
        }
    }
}
