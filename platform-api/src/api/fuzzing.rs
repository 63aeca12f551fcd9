//! What the parsers of requests are asked by [`crate::fuzzing`].

use std::fmt::Debug;

use http::{HeaderMap, HeaderName, HeaderValue};
use serde::Serialize;
use serde::de::DeserializeOwned;
use wharf_types::api::{
    CreateNamespace, CreateRelease, CreateToken, CreateUser, EnvPatch, Quota, Rollback, RotateAuthority,
    Scale, SetMember,
};
use wharf_types::copy::CopySpec;
use wharf_types::declare::change::{ApplyRequest, PlanRequest};
use wharf_types::exec::ExecSpec;
use wharf_types::job::CreateJob;
use wharf_types::schedule::ScheduleSpec;

use super::extract::parse;
use super::wish::{condition, idempotency_key};

/// A body, as each request in turn: what is taken is the same when it is written and read again, and is an object.
pub(crate) fn bodies(data: &[u8]) {
    let each: &[fn(&[u8])] = &[
        body::<CreateNamespace>,
        body::<CreateRelease>,
        body::<CreateToken>,
        body::<CreateUser>,
        body::<CreateJob>,
        body::<CopySpec>,
        body::<EnvPatch>,
        body::<ExecSpec>,
        body::<Quota>,
        body::<Rollback>,
        body::<RotateAuthority>,
        body::<Scale>,
        body::<ScheduleSpec>,
        body::<SetMember>,
        body::<PlanRequest>,
        body::<ApplyRequest>,
    ];
    each.iter().for_each(|body| body(data));
}

fn body<T: DeserializeOwned + Serialize + PartialEq + Debug>(data: &[u8]) {
    let Ok(value) = parse::<T>(data) else { return };
    assert_eq!(data.trim_ascii().first(), Some(&b'{'), "an object is asked for");
    let written = serde_json::to_vec(&value).expect("what was read can be written");
    assert_eq!(parse::<T>(&written).ok(), Some(value), "{}", written.escape_ascii());
}

/// Conditions of a request, one header field a line.
pub(crate) fn conditions(data: &[u8]) {
    let mut headers = HeaderMap::new();
    for line in data.split(|octet| *octet == b'\n') {
        let mut parts = line.splitn(2, |octet| *octet == b':');
        let name = parts.next().and_then(|name| HeaderName::from_bytes(name).ok());
        let value = parts.next().and_then(|value| HeaderValue::from_bytes(value).ok());
        if let (Some(name), Some(value)) = (name, value) {
            headers.append(name, value);
        }
    }
    drop(condition(&headers));
    if let Ok(Some(key)) = idempotency_key(&headers) {
        assert!((1..=200).contains(&key.len()) && key.is_ascii());
    }
}
