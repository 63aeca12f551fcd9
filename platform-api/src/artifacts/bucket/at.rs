//! Where a bucket is, and how one gets in.

use std::fmt;
use std::str::FromStr;

use object_store::path::Path as Key;

/// `s3://BUCKET`, or `s3://BUCKET/PREFIX`.
#[derive(Clone, PartialEq, Eq)]
pub struct BucketUrl {
    bucket: String,
    /// Without slashes at its ends. Empty: the whole bucket.
    prefix: String,
}

#[derive(Clone, Debug, thiserror::Error)]
#[error("`{0}` is no bucket: write s3://BUCKET or s3://BUCKET/PREFIX")]
pub struct NotABucketUrl(String);

impl BucketUrl {
    pub fn bucket(&self) -> &str {
        &self.bucket
    }
}

impl FromStr for BucketUrl {
    type Err = NotABucketUrl;

    fn from_str(text: &str) -> Result<Self, NotABucketUrl> {
        let invalid = || NotABucketUrl(text.chars().take(200).collect());
        let rest = text.strip_prefix("s3://").ok_or_else(invalid)?;
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let prefix = prefix.trim_matches('/');
        let of_bucket = |octet: u8| octet.is_ascii_alphanumeric() || b"-._".contains(&octet);
        let of_prefix = |octet: u8| of_bucket(octet) || octet == b'/';
        let is_fit = !bucket.is_empty()
            && bucket.bytes().all(of_bucket)
            && prefix.bytes().all(of_prefix)
            && !prefix.split('/').any(|part| [".", ".."].contains(&part))
            && (prefix.is_empty() || !prefix.split('/').any(str::is_empty));
        if !is_fit {
            return Err(invalid());
        }
        Ok(Self { bucket: bucket.to_owned(), prefix: prefix.to_owned() })
    }
}

impl fmt::Display for BucketUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { bucket, prefix } = self;
        match prefix.is_empty() {
            true => write!(f, "s3://{bucket}"),
            false => write!(f, "s3://{bucket}/{prefix}"),
        }
    }
}

impl fmt::Debug for BucketUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A bucket, and the variables of the environment that say where it is and who asks.
#[derive(Clone)]
pub struct BucketAt {
    pub(crate) url: BucketUrl,
    settings: Vec<(String, String)>,
}

impl BucketAt {
    /// Of `variables` those count whose names begin with `AWS_`, as other programs use them: `AWS_ENDPOINT_URL`, `AWS_REGION`,
    /// `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, `AWS_SESSION_TOKEN`, `AWS_ALLOW_HTTP` …
    pub fn new(url: BucketUrl, variables: impl IntoIterator<Item = (String, String)>) -> Self {
        let ours = |(key, value): &(String, String)| key.starts_with("AWS_") && !value.is_empty();
        Self { url, settings: variables.into_iter().filter(ours).collect() }
    }

    pub(super) fn settings(&self) -> &[(String, String)] {
        &self.settings
    }

    fn setting(&self, name: &str) -> Option<&str> {
        self.settings.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// Where the store is, for messages.
    pub(super) fn endpoint(&self) -> String {
        let given = self.setting("AWS_ENDPOINT_URL_S3").or(self.setting("AWS_ENDPOINT_URL"));
        let given = given.or(self.setting("AWS_ENDPOINT")).map(str::to_owned);
        given.unwrap_or_else(|| {
            let region = self.setting("AWS_REGION").or(self.setting("AWS_DEFAULT_REGION"));
            format!("https://s3.{}.amazonaws.com", region.unwrap_or("us-east-1"))
        })
    }

    pub(super) fn allows_http(&self) -> bool {
        self.setting("AWS_ALLOW_HTTP").is_some_and(|value| ["1", "true", "yes", "on"].contains(&value))
    }

    pub(super) fn has_keys(&self) -> bool {
        let named = |name: &str| self.setting(name).is_some();
        named("AWS_ACCESS_KEY_ID")
            || named("AWS_WEB_IDENTITY_TOKEN_FILE")
            || named("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI")
            || named("AWS_CONTAINER_CREDENTIALS_FULL_URI")
    }

    pub(super) fn key(&self, name: &str) -> Key {
        match self.url.prefix.is_empty() {
            true => Key::from(name),
            false => Key::from(format!("{}/{name}", self.url.prefix)),
        }
    }
}

/// Without its settings, of which some are secrets.
impl fmt::Debug for BucketAt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.url)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_is_read_with_its_prefix_and_anything_else_is_refused() {
        for (text, shown) in [
            ("s3://wharf", "s3://wharf"),
            ("s3://wharf/", "s3://wharf"),
            ("s3://wharf-1.x/a/b_c/", "s3://wharf-1.x/a/b_c"),
        ] {
            assert_eq!(text.parse::<BucketUrl>().unwrap().to_string(), shown);
        }
        for bad in
            ["", "wharf", "s3://", "s3:///a", "https://wharf", "s3://a/b//c", "s3://a/../b", "s3://a b"]
        {
            assert!(bad.parse::<BucketUrl>().unwrap_err().to_string().contains("s3://BUCKET"), "{bad}");
        }
    }

    #[test]
    fn keys_are_below_the_prefix_and_secrets_are_not_shown() {
        let variables = [("AWS_SECRET_ACCESS_KEY", "hidden"), ("HOME", "/root"), ("AWS_REGION", "eu-1")];
        let variables = variables.map(|(key, value)| (key.to_owned(), value.to_owned()));
        let at = BucketAt::new("s3://wharf/a/b".parse().unwrap(), variables);
        assert_eq!(at.key("sha256/ab").to_string(), "a/b/sha256/ab");
        assert_eq!(format!("{at:?}"), "s3://wharf/a/b");
        assert_eq!((at.settings().len(), at.endpoint().as_str()), (2, "https://s3.eu-1.amazonaws.com"));
    }
}
