//! What this crate does not know: which image a name means now.

use async_trait::async_trait;
use wharf_types::image::ImageDocument;
use wharf_types::secret::SecretValue;

/// Why it is not known which image is meant: what was wrong, where, and what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{problem}")]
pub struct NotResolved {
    pub problem: String,
    /// Whether the same may succeed later without anybody changing anything.
    pub is_retryable: bool,
}

/// Finds out which image a reference, such as `redis:7`, means.
#[async_trait]
pub trait ImageResolver: Send + Sync {
    /// `login` opens its registry: `USER:PASSWORD`.
    async fn resolve(
        &self,
        reference: &str,
        login: Option<&SecretValue>,
    ) -> Result<ImageDocument, NotResolved>;

    /// The TCP ports that an image exposes, as far as that is known without bringing it from anywhere.
    async fn exposed_ports(&self, _document: &ImageDocument) -> Option<Vec<u16>> {
        None
    }
}
