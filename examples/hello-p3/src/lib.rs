//! Says hello with the SDK, on WASI 0.3: what is in the file `GREETING_FILE`, or what `GREETING` says.

use wharf_sdk::http::{Request, Response, Result};

wharf_sdk::p3::http_app!(hello);

async fn hello(_request: Request) -> Result<Response> {
    let greeting = match std::env::var("GREETING_FILE") {
        Ok(file) => std::fs::read_to_string(file)?.trim_end().to_owned(),
        Err(_) => std::env::var("GREETING").unwrap_or_else(|_| "Hello from WASI 0.3".to_owned()),
    };
    Ok(Response::new(format!("{greeting}\n").into()))
}
