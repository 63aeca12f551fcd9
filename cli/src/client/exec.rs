//! The request by which a connection becomes that of a command.

use anyhow::Context as _;
use reqwest::{StatusCode, Upgraded, header};
use wharf_types::exec::{ExecSpec, PROTOCOL};

use super::{Client, builder};
use crate::app_ref::AppRef;

impl Client {
    /// Has a command run in a container of an app. What follows on the connection are frames.
    pub async fn exec(&self, app: &AppRef, spec: &ExecSpec) -> anyhow::Result<Upgraded> {
        let url = reqwest::Url::parse(&format!("{}{}", self.api, app.path("/exec")))
            .with_context(|| format!("`{}` is not an address", self.api))?;
        // HTTP/2 has no such upgrade.
        let http = builder(&url).http1_only().build().context("could not set up the HTTP client")?;
        let mut request =
            http.post(url).header(header::CONNECTION, "upgrade").header(header::UPGRADE, PROTOCOL).json(spec);
        if let Some(token) = &self.token {
            request = request.bearer_auth(token.reveal());
        }
        let response = match tokio::time::timeout(self.reply_timeout, request.send()).await {
            Ok(sent) => sent.map_err(|error| self.transport(error))?,
            Err(_) => return Err(self.silence().into()),
        };
        let status = response.status();
        if status == StatusCode::SWITCHING_PROTOCOLS {
            return response.upgrade().await.map_err(|error| self.transport(error));
        }
        let body = response.bytes().await.unwrap_or_default();
        Err(self.refusal(status, &body))
    }
}
