//! What a client sees of an error that the ingress makes.

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER};
use http::{HeaderMap, Response};

use crate::error::ErrorCode;

const X_WHARF_ERROR: HeaderName = HeaderName::from_static("x-wharf-error");

/// Whether a client that accepts this is a browser.
fn is_for_people(accept: Option<&HeaderValue>) -> bool {
    accept.is_some_and(|value| {
        value.as_bytes().windows(9).any(|window| window.eq_ignore_ascii_case(b"text/html"))
    })
}

/// The response for `code`. `hint` is one more sentence, which may repeat what the client sent.
pub(crate) fn response(
    code: ErrorCode,
    accept: Option<&HeaderValue>,
    hint: Option<&str>,
    request_id: &str,
) -> Response<Bytes> {
    let (content_type, text) = if is_for_people(accept) {
        ("text/html; charset=utf-8", html(code, hint, request_id))
    } else {
        let hint = hint.map(|hint| format!(" {hint}")).unwrap_or_default();
        ("text/plain; charset=utf-8", format!("{} ({}){hint}\n", code.message(), code.as_str()))
    };
    let mut headers = HeaderMap::with_capacity(5);
    headers.insert(X_WHARF_ERROR, HeaderValue::from_static(code.as_str()));
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if code.is_retryable() {
        headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
    }
    if let Ok(id) = HeaderValue::from_str(request_id) {
        headers.insert(crate::forwarded::X_REQUEST_ID, id);
    }
    let mut response = Response::new(Bytes::from(text));
    *response.status_mut() = code.status();
    *response.headers_mut() = headers;
    response
}

fn html(code: ErrorCode, hint: Option<&str>, request_id: &str) -> String {
    let status = code.status();
    let (message, name) = (code.message(), code.as_str());
    let hint = hint.map(|hint| format!("<p>{}</p>", escape(hint))).unwrap_or_default();
    let id = escape(request_id);
    format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>{status}</title>\
         <meta name=\"viewport\" content=\"width=device-width\"><style>\
         :root{{color-scheme:light dark;font:16px/1.5 system-ui,sans-serif}}\
         main{{max-width:34rem;margin:18vh auto;padding:0 1.5rem}}small{{opacity:.6}}</style></head>\
         <body><main><h1>{status}</h1><p>{message}</p>{hint}<small><code>{name}</code> · request {id}</small></main></body></html>\n"
    )
}

fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn browsers_get_a_page_and_programs_a_line() {
        let browser = HeaderValue::from_static("Text/HTML,application/xhtml+xml,*/*;q=0.8");
        let page = response(ErrorCode::Busy, Some(&browser), Some("<b>&"), "ab12");
        assert_eq!(page.headers()[CONTENT_TYPE], "text/html; charset=utf-8");
        let text = String::from_utf8(page.body().to_vec()).unwrap();
        assert!(text.contains("&lt;b&gt;&amp;") && !text.contains("<b>") && text.contains("ab12"), "{text}");
        let line = response(ErrorCode::Busy, Some(&HeaderValue::from_static("*/*")), None, "ab12");
        assert_eq!(line.body(), "The app is busy. Try again in a moment. (busy)\n");
        assert_eq!(
            (line.status().as_u16(), &line.headers()[RETRY_AFTER]),
            (503, &HeaderValue::from_static("1"))
        );
        assert_eq!(line.headers()["x-wharf-error"], "busy");
    }

    #[test]
    fn only_what_may_pass_is_to_be_retried() {
        assert!(!response(ErrorCode::UnknownHost, None, None, "x").headers().contains_key(RETRY_AFTER));
    }
}
