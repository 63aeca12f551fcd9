//! The parsers of this crate that take octets from outside, and what holds of each whatever comes.
//!
//! `fuzz/` gives them to a fuzzer; the test below tries them with their seeds and with random changes of these.

#[cfg(test)]
#[path = "../../fuzz/mutations.rs"]
mod mutations;
#[path = "../../fuzz/parser.rs"]
mod parser;

use jiff::tz::TimeZone;
use wharf_types::Timestamp;

use crate::plan::cron::{Cron, time_zone};
use crate::{api, inspect, logs, secrets};

pub use parser::Parser;

#[rustfmt::skip]
pub const PARSERS: &[Parser] = &[
    ("bodies", api::fuzzing::bodies, &[
        br#"{"name":"a","role":"viewer","namespace":"b","verbs":["read"],"expires_in":"30d"}"#,
        br#"{"artifact":"sha256:0000000000000000000000000000000000000000000000000000000000000000","spec":{"scale":{"replicas":2}},"keep":"spec"}"#,
        br#"{"replicas":3}"#,
        br#"{"apps":1,"instances":2,"memory_bytes":3,"requests_per_second":4}"#,
        br#"{"set":{"A":"b","C":null},"reset":["D"]}"#,
        br#"{"name":"a","job":{"app":"b","spec":{"completions":2,"args":["x"]}}}"#,
        br#"{"cron":"@daily","timezone":"Europe/Berlin","job":{"app":"a"}}"#,
        br#"{"resources":[{"kind":"namespace","name":"a"}],"prune":{"set":"b","namespaces":["c"]},"base":"x"}"#,
        br#"{"resources":[{"kind":"app","namespace":"a","name":"b","artifact":"sha256:0000000000000000000000000000000000000000000000000000000000000000","spec":{}}]}"#,
    ]),
    ("conditions", api::fuzzing::conditions, &[b"if-match:\"17\"\nidempotency-key:a b", b"if-match:*", b"if-match:W/\"1\""]),
    ("artifacts", artifacts, &[
        b"\0asm\x01\0\0\0", b"\0asm\x0d\0\x01\0",
        b"\0asm\x01\0\0\0\x01\x04\x01\x60\0\0\x03\x02\x01\0\x07\x0a\x01\x06_start\0\0\x0a\x04\x01\x02\0\x0b",
    ]),
    ("cron", cron, &[b"30 2 * * mon-fri", b"*/5 0-23/2 1,15 jan-mar 7", b"0 0 0 29 2 *", b"@daily", b"0 0 31 * *"]),
    ("time-zones", time_zones, &[b"Europe/Berlin", b"UTC", b"America/Argentina/Buenos_Aires"]),
    ("secret-keys", secrets::read_keys, &[
        b"0000000000000000000000000000000000000000000000000000000000000000 # old\n",
        b"1111111111111111111111111111111111111111111111111111111111111111,2222222222222222222222222222222222222222222222222222222222222222",
    ]),
    ("log-segments", logs::read_segment, &[
        b"{\"time\":\"2026-01-01T00:00:00Z\",\"namespace\":\"a\",\"app\":\"b\",\"release\":1,\"instance\":\"00000000-0000-7000-8000-000000000000\",\"stream\":\"stdout\",\"seq\":0,\"message\":\"hi\"}\n{\"half",
    ]),
];

/// No more of an error than a person reads.
const ERROR_MAX_BYTES: usize = 4000;

fn artifacts(data: &[u8]) {
    let head = &data[..data.len().min(inspect::HEAD_BYTES)];
    match inspect::inspect(data) {
        Ok(_) => assert!(inspect::check_head(head).is_ok(), "what is valid begins well"),
        Err(error) => {
            let text = error.to_string();
            assert!(text.len() <= ERROR_MAX_BYTES, "an error of {} octets: {text:.200}", text.len());
        }
    }
}

fn cron(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match Cron::parse(text) {
        Ok(cron) => {
            let mut time = Timestamp::UNIX_EPOCH;
            for _ in 0..5 {
                let Some(next) = cron.next_after(time, &TimeZone::UTC) else { return };
                assert!(next > time, "time goes on");
                time = next;
            }
        }
        Err(error) => {
            let text = error.to_string();
            assert!(text.len() <= ERROR_MAX_BYTES, "an error of {} octets: {text:.200}", text.len());
        }
    }
}

fn time_zones(data: &[u8]) {
    let Ok(name) = std::str::from_utf8(data) else { return };
    if let Err(error) = time_zone(name) {
        assert!(error.len() <= ERROR_MAX_BYTES, "an error of {} octets: {error:.200}", error.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_comes_a_parser_keeps_its_word() {
        mutations::try_each(PARSERS, 2000);
    }
}
