//! Fails on demand where requests share a memory, on WASI 0.3, to show which of them notice.

use std::cell::Cell;
use std::hint::black_box;
use std::time::Duration;

use futures_lite::stream;
use wasip3::filesystem::preopens;
use wasip3::filesystem::types::{DescriptorFlags, ErrorCode, OpenFlags, PathFlags};
use wharf_sdk::http::{Body, Error, Request, Response, Result, StatusCode, Uri};
use wharf_sdk::p3;

p3::http_app!(crash);

const HELP: &str = "\
GET  /                 this text
GET  /uses             requests that this memory has served, with this one
GET  /sleep?ms=N       answers after N milliseconds (default 1000): requests in this memory at that moment
GET  /hang             never answers
GET  /trap?ms=N        panics after N milliseconds (default 0)
GET  /loop             computes for ever
GET  /count?n=N&ms=M   N lines (default 10), one each M milliseconds (default 0)
GET  /half?ms=N        a line, and N milliseconds (default 0) later a panic
GET  /after?ms=N       answers, and writes to its log N milliseconds (default 0) later
POST /echo             the request's body as it comes
POST /append           adds the request's body to the file `log` of the volume at `/data`; 507 when it is full
";

thread_local! {
    static USES: Cell<u32> = const { Cell::new(0) };
    static OPEN: Cell<u32> = const { Cell::new(0) };
}

/// A request under way in this memory.
struct Open;

impl Open {
    fn new() -> Self {
        USES.set(USES.get() + 1);
        OPEN.set(OPEN.get() + 1);
        Self
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        OPEN.set(OPEN.get() - 1);
    }
}

async fn crash(request: Request) -> Result<Response> {
    let _open = Open::new();
    let uri = request.uri().clone();
    let millis = |default| Duration::from_millis(number(&uri, "ms").unwrap_or(default));
    match uri.path() {
        "/" => text(StatusCode::OK, HELP),
        "/uses" => text(StatusCode::OK, format!("{}\n", USES.get())),
        "/sleep" => {
            p3::sleep(millis(1000)).await;
            text(StatusCode::OK, format!("{}\n", OPEN.get()))
        }
        "/hang" => loop {
            p3::sleep(Duration::from_secs(3600)).await;
        },
        "/trap" => {
            p3::sleep(millis(0)).await;
            panic!("asked to panic by GET /trap");
        }
        "/loop" => compute_for_ever(),
        "/count" => Ok(Response::new(lines(number(&uri, "n").unwrap_or(10), millis(0)))),
        "/half" => Ok(Response::new(half_a_body(millis(0)))),
        "/after" => {
            let wait = millis(0);
            p3::spawn(async move {
                p3::sleep(wait).await;
                println!("done after the answer");
            });
            text(StatusCode::OK, "answered\n")
        }
        "/append" => append(&request.into_body().bytes().await?).await,
        "/echo" => Ok(Response::new(request.into_body())),
        path => text(StatusCode::NOT_FOUND, format!("there is nothing at {path}\n")),
    }
}

/// By the functions of WASI 0.3 itself: the standard library knows those of 0.2 only.
async fn append(content: &[u8]) -> Result<Response> {
    let folders = preopens::get_directories();
    let Some((folder, _)) = folders.into_iter().find(|(_, path)| path == "/data") else {
        return text(StatusCode::NOT_FOUND, "there is no volume at /data\n");
    };
    let (create, write) = (OpenFlags::CREATE, DescriptorFlags::WRITE);
    let opened = folder.open_at(PathFlags::empty(), "log".to_owned(), create, write).await;
    let written = match opened {
        Ok(file) => {
            let (mut sender, receiver) = wasip3::wit_stream::new();
            let written = file.append_via_stream(receiver);
            sender.write_all(content.to_vec()).await;
            drop(sender);
            written.await
        }
        Err(error) => Err(error),
    };
    match written {
        Ok(()) => text(StatusCode::OK, "appended\n"),
        Err(ErrorCode::InsufficientSpace) => text(StatusCode::INSUFFICIENT_STORAGE, "the volume is full\n"),
        Err(error) => text(StatusCode::FORBIDDEN, format!("{error:?}\n")),
    }
}

fn text(status: StatusCode, body: impl Into<Body>) -> Result<Response> {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    Ok(response)
}

/// A number in the query, `?name=12`.
fn number(uri: &Uri, name: &str) -> Option<u64> {
    let pairs = uri.query()?.split('&').filter_map(|pair| pair.split_once('='));
    pairs.filter(|(key, _)| *key == name).find_map(|(_, value)| value.parse().ok())
}

fn compute_for_ever() -> ! {
    let mut count = 0_u64;
    loop {
        count = black_box(count.wrapping_add(1));
    }
}

fn lines(count: u64, pause: Duration) -> Body {
    Body::from_stream(stream::unfold(1, move |line| async move {
        if line > count {
            return None;
        }
        if line > 1 && !pause.is_zero() {
            p3::sleep(pause).await;
        }
        Some((Ok::<_, Error>(format!("line {line}\n")), line + 1))
    }))
}

fn half_a_body(pause: Duration) -> Body {
    Body::from_stream(stream::unfold(true, move |is_first| async move {
        if !is_first {
            p3::sleep(pause).await;
            panic!("asked to panic by GET /half");
        }
        Some((Ok::<_, Error>("the first half, and then\n"), false))
    }))
}
