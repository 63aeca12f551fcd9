//! Fields of forms and cookies, as far as this app has any: their values are letters and digits, so nothing is escaped.

/// A field of `application/x-www-form-urlencoded`.
pub(crate) fn field<'a>(form: &'a str, name: &str) -> Option<&'a str> {
    named(form.split('&'), name)
}

/// A cookie, in any of the `cookie` headers of a request.
pub(crate) fn cookie<'a>(mut headers: impl Iterator<Item = &'a str>, name: &str) -> Option<&'a str> {
    headers.find_map(|header| named(header.split(';').map(str::trim), name))
}

fn named<'a>(mut pairs: impl Iterator<Item = &'a str>, name: &str) -> Option<&'a str> {
    pairs.find_map(|pair| pair.split_once('=').filter(|(key, _)| *key == name).map(|(_, value)| value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_found_by_its_name() {
        assert_eq!(field("id=1&choice=a", "choice"), Some("a"));
        assert_eq!(field("mychoice=a&choice", "choice"), None);
        assert_eq!(field("", "choice"), None);
    }

    #[test]
    fn a_cookie_is_found_in_any_header() {
        let headers = ["theme=dark", "a=1; voter=7"];
        assert_eq!(cookie(headers.into_iter(), "voter"), Some("7"));
        assert_eq!(cookie(headers.into_iter(), "vote"), None);
    }
}
