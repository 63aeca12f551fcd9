//! Streams bodies in both directions, chunk by chunk and with trailers.

use std::hint::black_box;
use std::time::{Duration, Instant};

use futures_lite::stream;
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use wharf_sdk::http::{
    Body, Error, HeaderMap, HeaderValue, Request, Response, Result, StatusCode, Uri, header,
};
use wharf_sdk::p2;

p2::http_app!(serve);

const HELP: &str = "\
GET  /                  this text
GET  /count?n=N&ms=M    N lines (default 10), one each M milliseconds (default 100)
GET  /events?n=N&ms=M   the same as server-sent events
GET  /bytes?n=N         N octets (default 1048576) in chunks of 64 KiB
GET  /work?n=N&ms=M     the same after computing for M milliseconds (default 50), which it does again halfway
GET  /trailers          a body, then the trailer x-lines
POST /echo              the request's body as it comes, with its trailers
POST /sum               the length of the request's body
GET  /headers           the request's headers as they came, one a line
GET  /fetch?url=URL     the body of another server, as it comes; outbound.allow has to grant it
";

async fn serve(request: Request) -> Result<Response> {
    let uri = request.uri().clone();
    match uri.path() {
        "/" => Ok(Response::new(HELP.into())),
        "/count" => Ok(Response::new(ticking(&uri, |line| format!("line {line}\n")))),
        "/events" => {
            let mut response = Response::new(ticking(&uri, |id| format!("id: {id}\ndata: event {id}\n\n")));
            let headers = response.headers_mut();
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
            headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
            Ok(response)
        }
        "/bytes" => Ok(Response::new(octets(number(&uri, "n").unwrap_or(1 << 20), || ()))),
        "/work" => {
            let time = Duration::from_millis(number(&uri, "ms").unwrap_or(50));
            compute(time);
            Ok(Response::new(octets(number(&uri, "n").unwrap_or(1 << 20), move || compute(time))))
        }
        "/trailers" => trailers(),
        "/echo" => Ok(Response::new(request.into_body())),
        "/sum" => {
            let length = length(request.into_body()).await?;
            Ok(Response::new(format!("{length}\n").into()))
        }
        "/headers" => {
            let lines = request.headers().iter();
            let lines =
                lines.map(|(name, value)| format!("{name}: {}\n", String::from_utf8_lossy(value.as_bytes())));
            Ok(Response::new(lines.collect::<String>().into()))
        }
        "/fetch" => Ok(fetch(&uri).await),
        path => Ok(refusal(StatusCode::NOT_FOUND, format!("there is nothing at {path}\n"))),
    }
}

fn refusal(status: StatusCode, text: String) -> Response {
    let mut response = Response::new(text.into());
    *response.status_mut() = status;
    response
}

/// A number in the query, `?name=12`.
fn number(uri: &Uri, name: &str) -> Option<u64> {
    let pairs = uri.query()?.split('&').filter_map(|pair| pair.split_once('='));
    pairs.filter(|(key, _)| *key == name).find_map(|(_, value)| value.parse().ok())
}

/// `n` texts with a pause of `ms` milliseconds before each but the first.
fn ticking(uri: &Uri, text: fn(u64) -> String) -> Body {
    let count = number(uri, "n").unwrap_or(10);
    let pause = Duration::from_millis(number(uri, "ms").unwrap_or(100));
    Body::from_stream(stream::unfold(1, move |line| async move {
        if line > count {
            return None;
        }
        if line > 1 {
            p2::sleep(pause).await;
        }
        Some((Ok::<_, Error>(text(line)), line + 1))
    }))
}

/// As many octets as asked for, without ever holding more than one chunk of them. Does something else halfway.
fn octets(count: u64, halfway: impl Fn() + Send + 'static) -> Body {
    const CHUNK: usize = 64 << 10;
    Body::from_stream(stream::unfold((count, halfway), move |(left, halfway)| async move {
        let length = usize::try_from(left).unwrap_or(CHUNK).min(CHUNK);
        let then = left - length as u64;
        if left > count / 2 && then <= count / 2 {
            halfway();
        }
        (length > 0).then(|| (Ok::<_, Error>(vec![b'x'; length]), (then, halfway)))
    }))
}

/// Uses the CPU without a pause.
fn compute(time: Duration) {
    let since = Instant::now();
    while since.elapsed() < time {
        (0..10_000_u64).for_each(|number| {
            black_box(number);
        });
    }
}

/// What another server answers, passed on.
async fn fetch(uri: &Uri) -> Response {
    let Some(url) = uri.query().and_then(|query| query.strip_prefix("url=")) else {
        return refusal(StatusCode::BAD_REQUEST, "/fetch needs ?url=URL\n".to_owned());
    };
    match p2::get(url).await {
        Ok(response) => {
            // Its header fields are about its connection, not ours.
            let status = response.status();
            let mut answer = Response::new(response.into_body());
            *answer.status_mut() = status;
            answer
        }
        Err(error) => refusal(StatusCode::BAD_GATEWAY, format!("could not fetch {url}: {error:#}\n")),
    }
}

fn trailers() -> Result<Response> {
    let mut trailers = HeaderMap::new();
    trailers.insert("x-lines", HeaderValue::from_static("2"));
    let frames = ["line 1\n", "line 2\n"]
        .map(|line| Frame::data(line.as_bytes()))
        .into_iter()
        .chain([Frame::trailers(trailers)]);
    let mut response = Response::new(Body::new(StreamBody::new(stream::iter(frames.map(Ok::<_, Error>)))));
    response.headers_mut().insert(header::TRAILER, HeaderValue::from_static("x-lines"));
    Ok(response)
}

/// Reads a body of any length without keeping it.
async fn length(mut body: Body) -> Result<u64> {
    let mut length = 0;
    while let Some(frame) = body.frame().await {
        length += frame?.data_ref().map_or(0, |data| data.len() as u64);
    }
    Ok(length)
}
