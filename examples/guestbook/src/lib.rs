//! A guestbook: entries and a counter of visits in the app's key-value store.
//!
//! Every instance of the app shows the same book, and the book survives deploys, because nothing is kept in memory. Each
//! entry has a number of its own from an atomic counter, so two visitors who write at once both get a place.

mod form;
mod page;

use wharf_sdk::http::{HeaderValue, Method, Request, Response, Result, StatusCode, header};
use wharf_sdk::keyvalue::Bucket;

wharf_sdk::p2::http_app!(guestbook);

/// How many entries a page shows.
const SHOWN: usize = 50;
const NAME_MAX_CHARS: usize = 60;
const MESSAGE_MAX_CHARS: usize = 500;
/// Longest form in octets; every character may be written as up to twelve.
const FORM_MAX_BYTES: usize = 16 << 10;

async fn guestbook(request: Request) -> Result<Response> {
    match (request.method(), request.uri().path()) {
        (&Method::GET, "/") => show(),
        (&Method::POST, "/") => sign(request).await,
        (_, "/healthz") => Ok(Response::new("ok\n".into())),
        (_, "/") => {
            answer(StatusCode::METHOD_NOT_ALLOWED, "the guestbook is read with GET and signed with POST\n")
        }
        _ => answer(StatusCode::NOT_FOUND, "there is nothing here; the guestbook is at /\n"),
    }
}

/// One entry as it is stored: the name, a line break, the message.
pub(crate) struct Entry {
    name: String,
    message: String,
}

impl Entry {
    fn to_stored(&self) -> String {
        format!("{}\n{}", self.name, self.message)
    }

    fn from_stored(value: &[u8]) -> Self {
        let text = String::from_utf8_lossy(value);
        let (name, message) = text.split_once('\n').unwrap_or(("", &text));
        Self { name: name.to_owned(), message: message.to_owned() }
    }
}

/// Sorts as the numbers do.
fn key(number: u64) -> String {
    format!("entry/{number:020}")
}

fn show() -> Result<Response> {
    let bucket = Bucket::open_default()?;
    let visits = bucket.increment("visits", 1)?;
    let mut keys: Vec<String> = bucket.keys()?.into_iter().filter(|key| key.starts_with("entry/")).collect();
    keys.sort_unstable_by(|a, b| b.cmp(a));
    let total = keys.len();
    keys.truncate(SHOWN);
    let mut entries = bucket.get_many(&keys)?;
    entries.sort_unstable_by(|a, b| b.0.cmp(&a.0));
    let entries: Vec<Entry> = entries.iter().map(|(_, value)| Entry::from_stored(value)).collect();
    let mut response = Response::new(page::render(&entries, total, visits).into());
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    Ok(response)
}

async fn sign(request: Request) -> Result<Response> {
    let length = request
        .headers()
        .get(header::CONTENT_LENGTH)
        .and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
    if length.is_none_or(|length| length > FORM_MAX_BYTES) {
        return answer(
            StatusCode::PAYLOAD_TOO_LARGE,
            "a form is at most 16 KiB long, and says so in content-length\n",
        );
    }
    let fields = form::parse(&request.into_body().bytes().await?);
    let field = |name: &str, max_chars: usize| -> String {
        let value = fields.iter().find(|(key, _)| key == name).map_or("", |(_, value)| value.trim());
        value.chars().filter(|c| *c == '\n' || !c.is_control()).take(max_chars).collect()
    };
    let entry = Entry {
        name: field("name", NAME_MAX_CHARS).replace('\n', " "),
        message: field("message", MESSAGE_MAX_CHARS),
    };
    if entry.name.is_empty() || entry.message.is_empty() {
        return answer(StatusCode::UNPROCESSABLE_ENTITY, "both name and message are needed\n");
    }
    let bucket = Bucket::open_default()?;
    let number = bucket.increment("entries", 1)?;
    bucket.set(&key(number), entry.to_stored())?;
    println!("entry {number} by {}", entry.name);
    // Back to the page by GET, so that reloading it does not sign twice.
    let mut response = Response::new(format!("entry {number} is written\n").into());
    *response.status_mut() = StatusCode::SEE_OTHER;
    response.headers_mut().insert(header::LOCATION, HeaderValue::from_static("/"));
    Ok(response)
}

fn answer(status: StatusCode, text: &'static str) -> Result<Response> {
    let mut response = Response::new(text.into());
    *response.status_mut() = status;
    Ok(response)
}
