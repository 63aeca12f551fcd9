//! Names that users choose for namespaces, apps, secrets, volumes, jobs and schedules, and their own.
//!
//! A name becomes a label of a hostname (`hello.default.localhost`), so it has a DNS label's letters: lower
//! case `a-z`, digits and inner dashes, at most 63 octets (RFC 1123 §2.1). Ours end at 40, which leaves room
//! for what a release or a preview may put beside it.
//!
//! A copy of a name shares its text: an app's is in its view, in its routes, and in what is kept of each node that has something of it.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// The longest name, in octets.
pub const NAME_MAX_BYTES: usize = 40;

/// Why a text is not a name. The message says what to write instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{text}` is not a valid {kind} name: use 1 to {NAME_MAX_BYTES} lower-case letters, digits and inner dashes, such as `my-app`"
)]
pub struct InvalidName {
    kind: &'static str,
    text: String,
}

fn is_name(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= NAME_MAX_BYTES
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !text.starts_with('-')
        && !text.ends_with('-')
}

macro_rules! names {
    ($($(#[$doc:meta])* $name:ident, $kind:literal;)+) => {$(
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, utoipa::ToSchema)]
        #[serde(try_from = "String", into = "String")]
        #[schema(value_type = String, pattern = "^[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?$")]
        pub struct $name(Arc<str>);

        impl $name {
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = InvalidName;
            fn from_str(text: &str) -> Result<Self, InvalidName> {
                if is_name(text) {
                    Ok(Self(text.into()))
                } else {
                    // A hostile name must not fill the terminal that shows the error.
                    Err(InvalidName { kind: $kind, text: text.chars().take(60).collect() })
                }
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidName;
            fn try_from(text: String) -> Result<Self, InvalidName> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.as_str().to_owned()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", self.0)
            }
        }
    )+};
}

names! {
    /// The name of a tenant, such as `default`.
    NamespaceName, "namespace";
    /// The name of an app within its namespace, such as `hello`.
    AppName, "app";
    /// The name of a secret within its namespace, such as `db-password`.
    SecretName, "secret";
    /// The name of a volume within its app, such as `data`.
    VolumeName, "volume";
    /// The name of a person, or of a program, that uses the platform, such as `alice`.
    UserName, "user";
    /// The name of a job, such as `import`. Several jobs of a namespace may have it, one after the other or at once.
    JobName, "job";
    /// The name of a schedule within its namespace, such as `nightly`.
    ScheduleName, "schedule";
    /// The name of a set of resources that are applied, and pruned, together, such as `shop`.
    SetName, "set";
}

impl From<JobName> for AppName {
    /// What a guest is called by, as its first argument: both kinds of names have the same letters.
    fn from(name: JobName) -> Self {
        Self(name.0)
    }
}

impl From<AppName> for JobName {
    fn from(name: AppName) -> Self {
        Self(name.0)
    }
}

impl From<AppName> for SetName {
    /// The stack that is deployed by the repository of an app of this name.
    fn from(name: AppName) -> Self {
        Self(name.0)
    }
}

impl From<SetName> for AppName {
    /// The app, real or not, in whose repository a stack of this name is.
    fn from(name: SetName) -> Self {
        Self(name.0)
    }
}

impl From<ScheduleName> for JobName {
    fn from(name: ScheduleName) -> Self {
        Self(name.0)
    }
}

impl NamespaceName {
    /// The namespace that exists from the first start on.
    pub fn default_namespace() -> Self {
        Self("default".into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_dns_labels() {
        for good in ["a", "hello", "a-b", "0", &"x".repeat(NAME_MAX_BYTES)] {
            assert!(good.parse::<AppName>().is_ok(), "{good}");
        }
        for bad in ["", "-a", "a-", "A", "a/b", "a.b", "../x", "a b", "ä", &"x".repeat(NAME_MAX_BYTES + 1)] {
            assert!(bad.parse::<AppName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn the_error_says_what_to_write() {
        let error = "a/b".parse::<AppName>().unwrap_err().to_string();
        assert!(error.contains("`a/b`") && error.contains("lower-case"), "{error}");
    }
}
