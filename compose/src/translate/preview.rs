//! A preview of a stack, which is there beside the stack itself: what it is called, and what it goes without.

use wharf_types::Digest;
use wharf_types::declare::document::AppDocument;
use wharf_types::name::{AppName, NAME_MAX_BYTES, SecretName, SetName};

use super::One;
use super::sink::Sink;

/// Digits that tell names apart of which not all is shown.
const DIGITS: usize = 8;

/// `shop-preview-blue-web` for `web`.
pub(super) fn app(preview: &SetName, label: &AppName) -> AppName {
    AppName::try_from(called(preview.as_str(), label.as_str()))
        .expect("two names with a dash are one, if short enough")
}

/// The same of a secret or a config.
pub(super) fn value(preview: &SetName, name: &SecretName) -> SecretName {
    SecretName::try_from(called(preview.as_str(), name.as_str()))
        .expect("two names with a dash are one, if short enough")
}

/// Both in one. Where that is too long, it ends with digits in the place of what does not fit, so that it is the same with each push.
fn called(preview: &str, name: &str) -> String {
    let whole = format!("{preview}-{name}");
    if whole.len() <= NAME_MAX_BYTES {
        return whole;
    }
    let digits: String = Digest::of(whole.as_bytes()).short().chars().take(DIGITS).collect();
    let begin: String = whole.chars().take(NAME_MAX_BYTES - DIGITS - 1).collect();
    format!("{}-{digits}", begin.trim_end_matches('-'))
}

/// An app without what there is only once. Of the stack itself it stays as it is.
pub(super) fn alone(one: &One<'_>, document: AppDocument, sink: &mut Sink) -> AppDocument {
    if one.context.preview.is_none() {
        return document;
    }
    let mut document = document;
    if !document.http.routes.is_empty() {
        let message = format!("a preview does not take the routes {}", document.http.routes.join(", "));
        sink.notice(one.place("x-wharf.http"), message);
        document.http.routes.clear();
    }
    if !document.tcp.ports.is_empty() {
        let ports: Vec<String> = document.tcp.ports.iter().map(u16::to_string).collect();
        let who = match document.image {
            Some(_) => "the services that share a network with it reach it",
            None => "nobody reaches it, and it is told no port to listen at",
        };
        let message = format!("a preview does not take the ports {}: {who}", ports.join(", "));
        sink.notice(one.place("ports"), message);
        document.tcp.ports.clear();
        document.container.tcp.clear();
    }
    document
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_into_a_name_is_told_by_digits() {
        assert_eq!(called("shop-preview-blue", "web"), "shop-preview-blue-web");
        let long = "shop-preview-the-colours-of-the-front";
        let (one, other) = (called(long, "database"), called(long, "databases"));
        assert_eq!(one, called(long, "database"), "it is the same with each push");
        assert_ne!(one, other);
        for name in [
            one,
            other,
            called(&"x".repeat(NAME_MAX_BYTES), "web"),
            called(&format!("{}-a", "x".repeat(30)), "webserver"),
        ] {
            assert!(name.parse::<AppName>().is_ok() && name.len() > NAME_MAX_BYTES - 4, "{name}");
        }
    }
}
