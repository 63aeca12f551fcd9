//! The requests about what is pushed with git.

use reqwest::Method;
use wharf_types::api::{BuildInfo, PushPolicy, RepositoryInfo, RepositoryPatch};
use wharf_types::{AppName, BuildId, NamespaceName};

use super::Client;
use crate::app_ref::AppRef;

impl Client {
    pub async fn builds(
        &self,
        namespace: &NamespaceName,
        app: Option<&AppName>,
    ) -> anyhow::Result<Vec<BuildInfo>> {
        let query: Vec<_> = app.iter().map(|app| ("app", app.to_string())).collect();
        Ok(self.page(&format!("/v1/namespaces/{namespace}/builds"), &query).await?.items)
    }

    pub async fn build(&self, namespace: &NamespaceName, id: BuildId) -> anyhow::Result<BuildInfo> {
        self.get(&format!("/v1/namespaces/{namespace}/builds/{id}")).await
    }

    pub async fn build_log(&self, namespace: &NamespaceName, id: BuildId) -> anyhow::Result<String> {
        let path = format!("/v1/namespaces/{namespace}/builds/{id}/log");
        let response = self.send(self.request(Method::GET, &path)).await?;
        response.text().await.map_err(|error| self.transport(error))
    }

    pub async fn cancel_build(&self, namespace: &NamespaceName, id: BuildId) -> anyhow::Result<()> {
        self.done(self.request(Method::POST, &format!("/v1/namespaces/{namespace}/builds/{id}/cancel"))).await
    }

    pub async fn push_policy(&self, namespace: &NamespaceName) -> anyhow::Result<PushPolicy> {
        self.get(&format!("/v1/namespaces/{namespace}/push-policy")).await
    }

    pub async fn set_push_policy(
        &self,
        namespace: &NamespaceName,
        policy: &PushPolicy,
    ) -> anyhow::Result<PushPolicy> {
        let path = format!("/v1/namespaces/{namespace}/push-policy");
        self.json(self.request(Method::PUT, &path).json(policy)).await
    }

    pub async fn repository(&self, app: &AppRef) -> anyhow::Result<RepositoryInfo> {
        self.json(app.request(self, Method::GET, "/repository")).await
    }

    pub async fn set_repository(
        &self,
        app: &AppRef,
        patch: &RepositoryPatch,
    ) -> anyhow::Result<RepositoryInfo> {
        self.json(app.request(self, Method::PATCH, "/repository").json(patch)).await
    }
}
