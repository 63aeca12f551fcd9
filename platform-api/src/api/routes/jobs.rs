//! Routes of jobs and schedules.

use axum::http::Method;
use axum::routing::{delete, get, post, put};
use wharf_types::job::{CreateJob, JobInfo};
use wharf_types::log::LogRecord;
use wharf_types::schedule::{ScheduleInfo, ScheduleSpec};

use super::{DEVELOPER, Endpoint, VIEWER};
use crate::api::openapi::{Payload, json, list};
use crate::api::parameters::{
    JOB_LOGS, JOB_ONCE, JOB_WAIT, PAGE_BY_NAME, PAGE_OF_JOBS, RESUMES, SCHEDULE_CHANGES,
};
use crate::api::{jobs, schedules};

macro_rules! job {
    ($rest:literal) => {
        concat!("/v1/namespaces/{namespace}/jobs", $rest)
    };
}

macro_rules! schedule {
    ($rest:literal) => {
        concat!("/v1/namespaces/{namespace}/schedules", $rest)
    };
}

pub(super) fn about_jobs() -> Vec<Endpoint> {
    let e = Endpoint::new;
    let mut all = vec![
        e(
            Method::POST,
            job!(""),
            DEVELOPER,
            post(jobs::create),
            "Make a job: a command that runs to its end",
        )
        .headers(JOB_ONCE)
        .takes(json::<CreateJob>())
        .replies(201, json::<JobInfo>())
        .or(200, "The key made it before"),
        e(Method::GET, job!(""), VIEWER, get(jobs::list), "List jobs, newest first, without their runs")
            .query(PAGE_OF_JOBS)
            .replies(200, list::<JobInfo>())
            .by_leader(),
        e(
            Method::GET,
            job!("/{job}"),
            VIEWER,
            get(jobs::show),
            "One job, by its id or its name, with its runs",
        )
        .query(JOB_WAIT)
        .replies(200, json::<JobInfo>())
        .by_leader(),
        e(Method::DELETE, job!("/{job}"), DEVELOPER, delete(jobs::remove), "Forget a job that has ended")
            .replies(204, Payload::Nothing),
        e(
            Method::POST,
            job!("/{job}/cancel"),
            DEVELOPER,
            post(jobs::cancel),
            "Stop what runs of a job, and end it",
        )
        .replies(200, json::<JobInfo>()),
        e(
            Method::GET,
            job!("/{job}/logs"),
            VIEWER,
            get(jobs::logs),
            "What the job printed; with `Accept: text/event-stream` also what it will print",
        )
        .query(JOB_LOGS)
        .headers(RESUMES)
        .replies(200, list::<LogRecord>())
        .by_leader(),
    ];
    all.extend(about_schedules());
    all
}

fn about_schedules() -> Vec<Endpoint> {
    let e = Endpoint::new;
    vec![
        e(
            Method::PUT,
            schedule!("/{schedule}"),
            DEVELOPER,
            put(schedules::set),
            "Make a schedule, or give it these settings",
        )
        .headers(SCHEDULE_CHANGES)
        .takes(json::<ScheduleSpec>())
        .replies(201, json::<ScheduleInfo>())
        .with_etag()
        .or(200, "It was there before"),
        e(Method::GET, schedule!(""), VIEWER, get(schedules::list), "List schedules with their jobs")
            .query(PAGE_BY_NAME)
            .replies(200, list::<ScheduleInfo>()),
        e(Method::GET, schedule!("/{schedule}"), VIEWER, get(schedules::show), "One schedule")
            .replies(200, json::<ScheduleInfo>())
            .with_etag(),
        e(
            Method::DELETE,
            schedule!("/{schedule}"),
            DEVELOPER,
            delete(schedules::remove),
            "Remove a schedule, and cancel its jobs",
        )
        .headers(SCHEDULE_CHANGES)
        .replies(204, Payload::Nothing),
        e(
            Method::POST,
            schedule!("/{schedule}/suspend"),
            DEVELOPER,
            post(schedules::suspend),
            "Make no jobs until it is resumed",
        )
        .headers(SCHEDULE_CHANGES)
        .replies(200, json::<ScheduleInfo>())
        .with_etag(),
        e(
            Method::POST,
            schedule!("/{schedule}/resume"),
            DEVELOPER,
            post(schedules::resume),
            "Make jobs again, from the next time on",
        )
        .headers(SCHEDULE_CHANGES)
        .replies(200, json::<ScheduleInfo>())
        .with_etag(),
        e(Method::POST, schedule!("/{schedule}/run"), DEVELOPER, post(schedules::run_now), "Make a job now")
            .headers(JOB_ONCE)
            .replies(201, json::<JobInfo>())
            .or(200, "The key made it before"),
    ]
}
