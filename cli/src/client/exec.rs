//! The requests by which a connection becomes that of a command, of files that are copied, or of a volume's archive.

use anyhow::Context as _;
use reqwest::{StatusCode, Upgraded, header};
use serde::Serialize;
use wharf_types::copy::CopySpec;
use wharf_types::exec::{ExecSpec, PROTOCOL};
use wharf_types::{NamespaceName, VolumeId};

use super::{Client, builder};
use crate::app_ref::AppRef;

impl Client {
    /// Has a command run in a container of an app. What follows on the connection are frames.
    pub async fn exec(&self, app: &AppRef, spec: &ExecSpec) -> anyhow::Result<Upgraded> {
        self.take_over(&app.path("/exec"), Some(spec)).await
    }

    /// Has files copied out of a container of an app, or into one. What follows on the connection are frames.
    pub async fn copy(&self, app: &AppRef, spec: &CopySpec) -> anyhow::Result<Upgraded> {
        self.take_over(&app.path("/copy"), Some(spec)).await
    }

    /// Has what a volume holds sent. What follows on the connection are frames, with the archive in stdout.
    pub async fn back_up_volume(&self, namespace: &NamespaceName, id: VolumeId) -> anyhow::Result<Upgraded> {
        self.take_over(&format!("/v1/namespaces/{namespace}/volumes/{id}/backup"), None::<&()>).await
    }

    /// The same the other way, with the archive in stdin, whose end is an empty frame.
    pub async fn restore_volume(&self, namespace: &NamespaceName, id: VolumeId) -> anyhow::Result<Upgraded> {
        self.take_over(&format!("/v1/namespaces/{namespace}/volumes/{id}/restore"), None::<&()>).await
    }

    async fn take_over(&self, path: &str, body: Option<&impl Serialize>) -> anyhow::Result<Upgraded> {
        let url = reqwest::Url::parse(&format!("{}{path}", self.api))
            .with_context(|| format!("`{}` is not an address", self.api))?;
        // HTTP/2 has no such upgrade.
        let http = builder(&url).http1_only().build().context("could not set up the HTTP client")?;
        let mut request =
            http.post(url).header(header::CONNECTION, "upgrade").header(header::UPGRADE, PROTOCOL);
        if let Some(body) = body {
            request = request.json(body);
        }
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
