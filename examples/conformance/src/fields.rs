//! What may be done with header fields.

use std::fmt::Write as _;

use wasip2::http::types::{Fields, IncomingRequest, OutgoingResponse};

/// Names of which `wasi:http` leaves it to the host whether a guest may set them; those that frame a message cannot be a guest's.
const OF_THE_HOST: [&str; 8] = [
    "connection",
    "host",
    "http2-settings",
    "keep-alive",
    "proxy-connection",
    "te",
    "transfer-encoding",
    "upgrade",
];

pub(crate) fn report(request: &IncomingRequest) -> String {
    let mut text = String::new();
    let mut say = |what: &str, answer: String| {
        let _ = writeln!(text, "{what}: {answer}");
    };
    for name in OF_THE_HOST {
        say(name, format!("{:?}", Fields::new().append(name, b"x")));
    }
    let list = [("connection".to_owned(), b"close".to_vec())];
    say("from a list", format!("{:?}", Fields::from_list(&list).map(drop)));
    say("of the request", format!("{:?}", request.headers().append("x-a", b"1")));
    say("of a response", format!("{:?}", OutgoingResponse::new(Fields::new()).headers().append("x-a", b"1")));

    let fields = Fields::new();
    say("name with a space", format!("{:?}", fields.append("x a", b"1")));
    say("empty name", format!("{:?}", fields.append("", b"1")));
    say("value with a line break", format!("{:?}", fields.append("x-a", b"1\r\nx-b: 2")));
    say("value with a zero", format!("{:?}", fields.append("x-a", b"\0")));
    say("get of a bad name", format!("{:?}", fields.get("x a")));
    say("value beyond ascii", format!("{:?}", fields.append("x-obs", b"\xe9")));
    say("empty value", format!("{:?}", fields.set("x-empty", &[Vec::new()])));

    fields.append("X-Many", b"1").expect("it is a field");
    fields.append("x-many", b"2").expect("it is a field");
    say("two values", format!("{}", fields.get("x-MANY").len()));
    fields.set("x-many", &[b"3".to_vec()]).expect("it is a field");
    say("set anew", format!("{}", fields.get("x-many").len()));
    let copy = fields.clone();
    say("delete", format!("{:?}, has: {}", fields.delete("X-Many"), fields.has("x-many")));
    say("the copy", format!("has: {}", copy.has("x-many")));
    text
}
