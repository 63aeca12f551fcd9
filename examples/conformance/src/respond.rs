//! Answers as the query asks for them, right or wrong.

use wasip2::http::types::{
    DnsErrorPayload, ErrorCode, Fields, OutgoingBody, OutgoingResponse, ResponseOutparam,
};

use crate::{Query, answer, write};

pub(crate) fn respond(query: &Query<'_>, out: ResponseOutparam) {
    let fields = Fields::new();
    if let Some((name, value)) = query.get("field").and_then(|field| field.split_once(':'))
        && let Err(error) = fields.append(name, value.as_bytes())
    {
        return answer(out, &format!("the field is refused: {error:?}\n"));
    }
    if query.get("obs").is_some() {
        fields.append("x-obs", b"caf\xe9").expect("it is a field");
    }
    if let Some(length) = query.get("length") {
        fields.append("content-length", length.as_bytes()).expect("it is a field");
    }
    let response = OutgoingResponse::new(fields);
    if let Some(status) = query.number("status")
        && response.set_status_code(status).is_err()
    {
        return answer(out, "the status is refused\n");
    }
    let body = response.body().expect("nobody has taken it");
    ResponseOutparam::set(out, Ok(response));
    if let Some(text) = query.get("body") {
        println!("written: {}", write(&body, text.as_bytes()));
    }
    let trailers = query.get("trailer").map(|text| {
        let trailers = Fields::new();
        trailers.append("x-trailer", text.as_bytes()).expect("it is a field");
        trailers
    });
    if query.get("unfinished").is_some() {
        return drop(body);
    }
    println!("finished: {:?}", OutgoingBody::finish(body, trailers));
}

/// An error by the name that the specification gives it.
pub(crate) fn error(code: &str) -> ErrorCode {
    match code {
        "dns-error" => {
            ErrorCode::DnsError(DnsErrorPayload { rcode: Some("NXDOMAIN".to_owned()), info_code: Some(3) })
        }
        "destination-unavailable" => ErrorCode::DestinationUnavailable,
        "connection-refused" => ErrorCode::ConnectionRefused,
        "connection-timeout" => ErrorCode::ConnectionTimeout,
        "http-request-denied" => ErrorCode::HttpRequestDenied,
        "http-request-body-size" => ErrorCode::HttpRequestBodySize(Some(7)),
        "loop-detected" => ErrorCode::LoopDetected,
        other => ErrorCode::InternalError(Some(other.to_owned())),
    }
}
