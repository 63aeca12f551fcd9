//! Keeps notes: each is a file in the folder `/data`, which is a volume and outlives every instance.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use wharf_sdk::http::{Method, Request, Response, Result, StatusCode};

wharf_sdk::p2::http_app!(serve);

const FOLDER: &str = "/data";

/// Built for WASI 0.1 and made into a component, a guest is told no more of a full disk than that writing failed.
const WASI_IO: i32 = 29;

async fn serve(request: Request) -> Result<Response> {
    let path = Path::new(FOLDER).join(request.uri().path().trim_start_matches('/'));
    let method = request.method().clone();
    let body = request.into_body().bytes().await?;
    let done = match method {
        Method::GET if path == Path::new(FOLDER).join("") => list(),
        Method::GET => fs::read(&path),
        Method::PUT => write(&path, &body).map(|()| b"written\n".to_vec()),
        Method::POST => append(&path, &body).map(|()| b"appended\n".to_vec()),
        Method::DELETE => fs::remove_file(&path).map(|()| b"deleted\n".to_vec()),
        _ => return Ok(reply(StatusCode::METHOD_NOT_ALLOWED, "GET, PUT, POST and DELETE only\n")),
    };
    Ok(match done {
        Ok(content) => Response::new(content.into()),
        Err(error) => refuse(&error),
    })
}

/// Written beside the note and renamed over it, so that whoever reads meets the old note or the new one, and never half of one.
fn write(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut draft = path.to_owned().into_os_string();
    draft.push(".new");
    let draft = PathBuf::from(draft);
    let written = fs::write(&draft, content).and_then(|()| fs::rename(&draft, path));
    if written.is_err() {
        // What did not fit would keep its place.
        let _ = fs::remove_file(&draft);
    }
    written
}

fn append(path: &Path, line: &[u8]) -> io::Result<()> {
    OpenOptions::new().append(true).create(true).open(path)?.write_all(line)
}

fn list() -> io::Result<Vec<u8>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(FOLDER)? {
        names.push(entry?.file_name().to_string_lossy().into_owned() + "\n");
    }
    names.sort();
    Ok(names.concat().into_bytes())
}

fn refuse(error: &io::Error) -> Response {
    let status = match error.kind() {
        io::ErrorKind::NotFound => StatusCode::NOT_FOUND,
        io::ErrorKind::StorageFull => StatusCode::INSUFFICIENT_STORAGE,
        _ if error.raw_os_error() == Some(WASI_IO) => StatusCode::INSUFFICIENT_STORAGE,
        _ => StatusCode::FORBIDDEN,
    };
    reply(status, format!("{error}\n"))
}

fn reply(status: StatusCode, text: impl Into<wharf_sdk::http::Body>) -> Response {
    let mut response = Response::new(text.into());
    *response.status_mut() = status;
    response
}
