//! The requests about jobs and schedules.

use std::time::Duration;

use reqwest::Method;
use wharf_types::job::{CreateJob, JobInfo};
use wharf_types::schedule::{ScheduleInfo, ScheduleSpec};
use wharf_types::{NamespaceName, ScheduleName};

use super::Client;

fn jobs(namespace: &NamespaceName) -> String {
    format!("/v1/namespaces/{namespace}/jobs")
}

fn schedules(namespace: &NamespaceName) -> String {
    format!("/v1/namespaces/{namespace}/schedules")
}

/// A name that somebody typed, as a part of a path.
fn segment(text: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte);
    let escaped =
        |byte: u8| if is_plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") };
    text.bytes().map(escaped).collect()
}

impl Client {
    /// With a key of the user's own, or one for this request alone.
    pub async fn create_job(
        &self,
        namespace: &NamespaceName,
        job: &CreateJob,
        key: Option<&str>,
    ) -> anyhow::Result<JobInfo> {
        let request = self.request(Method::POST, &jobs(namespace)).json(job);
        match key {
            Some(key) => self.json(request.header("idempotency-key", key)).await,
            None => self.once_only(request).await,
        }
    }

    pub async fn jobs(&self, namespace: &NamespaceName) -> anyhow::Result<Vec<JobInfo>> {
        self.all(&jobs(namespace)).await
    }

    /// The job as it is, or, with `wait`, as it is when it has ended or the time is up.
    pub async fn job(
        &self,
        namespace: &NamespaceName,
        job: &str,
        wait: Option<Duration>,
    ) -> anyhow::Result<JobInfo> {
        let wait = wait.unwrap_or_default();
        let request = self
            .request(Method::GET, &format!("{}/{}", jobs(namespace), segment(job)))
            .query(&[("wait", format!("{}ms", wait.as_millis()))])
            .timeout(wait + self.reply_timeout);
        self.json(request).await
    }

    pub async fn cancel_job(&self, namespace: &NamespaceName, job: &str) -> anyhow::Result<JobInfo> {
        let path = format!("{}/{}/cancel", jobs(namespace), segment(job));
        self.json(self.request(Method::POST, &path)).await
    }

    pub async fn delete_job(&self, namespace: &NamespaceName, job: &str) -> anyhow::Result<()> {
        let path = format!("{}/{}", jobs(namespace), segment(job));
        self.done(self.request(Method::DELETE, &path)).await
    }

    pub async fn schedules(&self, namespace: &NamespaceName) -> anyhow::Result<Vec<ScheduleInfo>> {
        self.all(&schedules(namespace)).await
    }

    pub async fn schedule(
        &self,
        namespace: &NamespaceName,
        name: &ScheduleName,
    ) -> anyhow::Result<ScheduleInfo> {
        self.get(&format!("{}/{name}", schedules(namespace))).await
    }

    pub async fn set_schedule(
        &self,
        namespace: &NamespaceName,
        name: &ScheduleName,
        spec: &ScheduleSpec,
    ) -> anyhow::Result<ScheduleInfo> {
        self.json(self.request(Method::PUT, &format!("{}/{name}", schedules(namespace))).json(spec)).await
    }

    /// `suspend` or `resume`.
    pub async fn ask_schedule(
        &self,
        namespace: &NamespaceName,
        name: &ScheduleName,
        verb: &str,
    ) -> anyhow::Result<ScheduleInfo> {
        let path = format!("{}/{name}/{verb}", schedules(namespace));
        self.json(self.request(Method::POST, &path)).await
    }

    pub async fn run_schedule(
        &self,
        namespace: &NamespaceName,
        name: &ScheduleName,
    ) -> anyhow::Result<JobInfo> {
        self.once_only(self.request(Method::POST, &format!("{}/{name}/run", schedules(namespace)))).await
    }

    pub async fn remove_schedule(
        &self,
        namespace: &NamespaceName,
        name: &ScheduleName,
    ) -> anyhow::Result<()> {
        self.done(self.request(Method::DELETE, &format!("{}/{name}", schedules(namespace)))).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_somebody_typed_stays_one_part_of_a_path() {
        assert_eq!(segment("nightly-import"), "nightly-import");
        assert_eq!(segment("../x?y"), "..%2Fx%3Fy");
    }
}
