//! The requests that commands make: one method a route.

use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use futures::TryStreamExt as _;
use http::HeaderValue;
use reqwest::{Method, RequestBuilder, StatusCode};
use tokio_util::io::ReaderStream;
use wharf_types::api::{
    AppInfo, ArtifactInfo, AuditRecord, AuthorityInfo, ConfigValue, CreateJoinToken, CreateNamespace,
    CreateRelease, CreateToken, CreateUser, CreatedJoinToken, CreatedToken, Deployed, Env, EnvPatch,
    FilesInfo, JoinTokenInfo, MemberInfo, NamespaceInfo, NodeInfo, NodePatch, Page, Quota, QuotaInfo,
    ReleaseInfo, ResolveImage, Role, Rollback, RolloutInfo, RotateAuthority, RotatedKey, Scale, SecretInfo,
    SecretSet, ServerInfo, SetMember, TokenInfo, Usage, UserInfo, VolumeInfo, WhoAmI, Why,
};
use wharf_types::declare::Resource;
use wharf_types::declare::change::{Applied, Plan};
use wharf_types::image::{EXPOSED_HEADER, ImageDocument};
use wharf_types::problem::ProblemCode;
use wharf_types::secret::{SecretValue, ValueKind};
use wharf_types::{
    Digest, NamespaceName, NodeId, Problem, RolloutId, SecretName, TokenId, UserName, VolumeId,
};

use super::Client;
use crate::app_ref::AppRef;
use crate::artifact::Content;

/// What a server gives an upload, as much for the way on to a bucket, and some for what is looked at before the reply.
const UPLOAD_TIMEOUT: Duration = Duration::from_secs(2 * 900 + 300);
/// What is sent at once.
const CHUNK_BYTES: usize = 64 << 10;

/// Ten thousand apps are one transaction, which may wait for another one of that size.
const APPLY_TIMEOUT: Duration = Duration::from_secs(300);

impl Client {
    /// `verb` is `pause`, `resume` or `abort`.
    pub async fn wish_of_rollout(&self, app: &AppRef, verb: &str) -> anyhow::Result<RolloutInfo> {
        self.json(app.request(self, Method::POST, &format!("/rollout/{verb}"))).await
    }

    pub async fn stop(&self, app: &AppRef) -> anyhow::Result<AppInfo> {
        self.json(app.request(self, Method::POST, "/stop")).await
    }

    pub async fn start(&self, app: &AppRef) -> anyhow::Result<Deployed> {
        self.once_only(app.request(self, Method::POST, "/start")).await
    }

    /// The body is a `PlanRequest`.
    pub async fn plan(&self, body: Vec<u8>) -> anyhow::Result<Plan> {
        self.json(self.json_body("/v1/plans", body)).await
    }

    /// The body is an `ApplyRequest`.
    pub async fn apply(&self, body: Vec<u8>) -> anyhow::Result<Applied> {
        self.once_only(self.json_body("/v1/applies", body)).await
    }

    fn json_body(&self, path: &str, body: Vec<u8>) -> RequestBuilder {
        let request = self.request(Method::POST, path).timeout(APPLY_TIMEOUT);
        request.header(http::header::CONTENT_TYPE, "application/json").body(body)
    }

    pub async fn declaration(&self, app: &AppRef) -> anyhow::Result<Resource> {
        self.json(app.request(self, Method::GET, "/declaration")).await
    }

    pub async fn whoami(&self) -> anyhow::Result<WhoAmI> {
        self.get("/v1/whoami").await
    }

    pub async fn create_token(&self, token: &CreateToken) -> anyhow::Result<CreatedToken> {
        self.once_only(self.request(Method::POST, "/v1/tokens").json(token)).await
    }

    pub async fn tokens(&self) -> anyhow::Result<Vec<TokenInfo>> {
        self.all("/v1/tokens").await
    }

    pub async fn revoke_token(&self, id: wharf_types::TokenId) -> anyhow::Result<()> {
        self.done(self.request(Method::DELETE, &format!("/v1/tokens/{id}"))).await
    }

    pub async fn create_user(&self, name: UserName) -> anyhow::Result<UserInfo> {
        self.once_only(self.request(Method::POST, "/v1/users").json(&CreateUser { name })).await
    }

    pub async fn users(&self) -> anyhow::Result<Vec<UserInfo>> {
        self.all("/v1/users").await
    }

    pub async fn remove_user(&self, name: &UserName) -> anyhow::Result<()> {
        self.done(self.request(Method::DELETE, &format!("/v1/users/{name}"))).await
    }

    pub async fn members(&self, namespace: &NamespaceName) -> anyhow::Result<Vec<MemberInfo>> {
        self.all(&format!("/v1/namespaces/{namespace}/members")).await
    }

    pub async fn set_member(
        &self,
        namespace: &NamespaceName,
        user: &UserName,
        role: Role,
    ) -> anyhow::Result<MemberInfo> {
        let path = format!("/v1/namespaces/{namespace}/members/{user}");
        self.json(self.request(Method::PUT, &path).json(&SetMember { role })).await
    }

    pub async fn remove_member(&self, namespace: &NamespaceName, user: &UserName) -> anyhow::Result<()> {
        self.done(self.request(Method::DELETE, &format!("/v1/namespaces/{namespace}/members/{user}"))).await
    }

    pub async fn quota(&self, namespace: &NamespaceName) -> anyhow::Result<QuotaInfo> {
        self.get(&format!("/v1/namespaces/{namespace}/quota")).await
    }

    /// The same with its `ETag`, by which [`Self::set_quota`] notices that others have changed it. None: the platform is of a version that
    /// gives none.
    pub async fn quota_to_change(
        &self,
        namespace: &NamespaceName,
    ) -> anyhow::Result<(QuotaInfo, Option<HeaderValue>)> {
        let request = self.request(Method::GET, &format!("/v1/namespaces/{namespace}/quota"));
        let response = self.send(request).await?;
        let etag = response.headers().get(http::header::ETAG).cloned();
        Ok((self.body(response).await?, etag))
    }

    /// Sets all limits, if they are still those of the `ETag`.
    pub async fn set_quota(
        &self,
        namespace: &NamespaceName,
        quota: &Quota,
        etag: Option<&HeaderValue>,
    ) -> anyhow::Result<QuotaInfo> {
        let mut request = self.request(Method::PUT, &format!("/v1/namespaces/{namespace}/quota")).json(quota);
        if let Some(etag) = etag {
            request = request.header(http::header::IF_MATCH, etag);
        }
        self.json(request).await
    }

    pub async fn namespace(&self, name: &NamespaceName) -> anyhow::Result<NamespaceInfo> {
        self.get(&format!("/v1/namespaces/{name}")).await
    }

    /// Records of changes that this query asks for, the oldest first.
    pub async fn audit(&self, query: &[(&str, String)]) -> anyhow::Result<Vec<AuditRecord>> {
        self.all_with("/v1/audit", query).await
    }

    pub async fn create_namespace(&self, name: NamespaceName) -> anyhow::Result<()> {
        let request = self.request(Method::POST, "/v1/namespaces").json(&CreateNamespace { name });
        self.once_only::<NamespaceInfo>(request).await.map(drop)
    }

    pub async fn namespaces(&self) -> anyhow::Result<Vec<NamespaceInfo>> {
        self.all("/v1/namespaces").await
    }

    pub async fn delete_namespace(&self, name: &NamespaceName) -> anyhow::Result<()> {
        self.done(self.request(Method::DELETE, &format!("/v1/namespaces/{name}"))).await
    }

    /// Secrets or configs.
    pub async fn values(
        &self,
        namespace: &NamespaceName,
        kind: ValueKind,
    ) -> anyhow::Result<Vec<SecretInfo>> {
        self.all(&format!("/v1/namespaces/{namespace}/{}", kind.table())).await
    }

    pub async fn set_value(
        &self,
        namespace: &NamespaceName,
        (kind, name): (ValueKind, &SecretName),
        value: &SecretValue,
    ) -> anyhow::Result<SecretSet> {
        let path = format!("/v1/namespaces/{namespace}/{}/{name}", kind.table());
        self.json(self.request(Method::PUT, &path).body(value.reveal().to_owned())).await
    }

    pub async fn remove_value(
        &self,
        namespace: &NamespaceName,
        (kind, name): (ValueKind, &SecretName),
    ) -> anyhow::Result<()> {
        let path = format!("/v1/namespaces/{namespace}/{}/{name}", kind.table());
        self.done(self.request(Method::DELETE, &path)).await
    }

    pub async fn config(
        &self,
        namespace: &NamespaceName,
        name: &SecretName,
        version: Option<u64>,
    ) -> anyhow::Result<ConfigValue> {
        let query = version.map(|version| format!("?version={version}")).unwrap_or_default();
        self.json(self.request(Method::GET, &format!("/v1/namespaces/{namespace}/configs/{name}{query}")))
            .await
    }

    pub async fn rotate_secret_key(&self) -> anyhow::Result<RotatedKey> {
        self.once_only(self.request(Method::POST, "/v1/secret-keys")).await
    }

    pub async fn nodes(&self) -> anyhow::Result<Vec<NodeInfo>> {
        self.all("/v1/nodes").await
    }

    pub async fn authorities(&self) -> anyhow::Result<Vec<AuthorityInfo>> {
        self.all("/v1/authorities").await
    }

    pub async fn rotate_authority(&self, force: bool) -> anyhow::Result<Vec<AuthorityInfo>> {
        let request = self.request(Method::POST, "/v1/authorities").json(&RotateAuthority { force });
        self.once_only::<Page<AuthorityInfo>>(request).await.map(|page| page.items)
    }

    pub async fn servers(&self) -> anyhow::Result<Vec<ServerInfo>> {
        self.all("/v1/servers").await
    }

    pub async fn node(&self, id: NodeId) -> anyhow::Result<NodeInfo> {
        self.get(&format!("/v1/nodes/{id}")).await
    }

    pub async fn patch_node(&self, id: NodeId, patch: &NodePatch) -> anyhow::Result<NodeInfo> {
        self.json(self.request(Method::PATCH, &format!("/v1/nodes/{id}")).json(patch)).await
    }

    pub async fn remove_node(&self, id: NodeId) -> anyhow::Result<()> {
        self.done(self.request(Method::DELETE, &format!("/v1/nodes/{id}"))).await
    }

    pub async fn create_join_token(&self, token: &CreateJoinToken) -> anyhow::Result<CreatedJoinToken> {
        self.once_only(self.request(Method::POST, "/v1/join-tokens").json(token)).await
    }

    pub async fn join_tokens(&self) -> anyhow::Result<Vec<JoinTokenInfo>> {
        self.all("/v1/join-tokens").await
    }

    pub async fn revoke_join_token(&self, id: TokenId) -> anyhow::Result<()> {
        self.done(self.request(Method::DELETE, &format!("/v1/join-tokens/{id}"))).await
    }

    pub async fn usage(&self, namespace: &NamespaceName) -> anyhow::Result<Usage> {
        self.get(&format!("/v1/namespaces/{namespace}/usage")).await
    }

    /// None: the platform does not have it. Only the platform's own word counts for that: whatever else answers with 404 must
    /// not be sent the artifact.
    pub async fn find_artifact(
        &self,
        namespace: &NamespaceName,
        digest: Digest,
    ) -> anyhow::Result<Option<ArtifactInfo>> {
        let found = self.get(&format!("/v1/namespaces/{namespace}/artifacts/{digest}")).await;
        match found {
            Err(error) if is_not_found(&error) => Ok(None),
            other => other.map(Some),
        }
    }

    /// Which image a name means now. `login` is the secret that opens its registry.
    pub async fn resolve_image(
        &self,
        namespace: &NamespaceName,
        image: &str,
        login: Option<&SecretName>,
    ) -> anyhow::Result<ImageDocument> {
        Ok(self.resolve_image_with_ports(namespace, image, login).await?.0)
    }

    /// The same, with the TCP ports that the image exposes where the platform knows them.
    pub async fn resolve_image_with_ports(
        &self,
        namespace: &NamespaceName,
        image: &str,
        login: Option<&SecretName>,
    ) -> anyhow::Result<(ImageDocument, Option<Vec<u16>>)> {
        let path = format!("/v1/namespaces/{namespace}/images");
        let request = ResolveImage { image: image.to_owned(), login: login.cloned() };
        let response = self.send(self.request(Method::POST, &path).json(&request)).await?;
        let said = response.headers().get(EXPOSED_HEADER).and_then(|value| value.to_str().ok());
        let exposed =
            said.map(|ports| ports.split(',').filter_map(|port| port.trim().parse().ok()).collect());
        Ok((self.body(response).await?, exposed))
    }

    /// Uploads the files of an app, unless the platform has them.
    pub async fn ensure_files(
        &self,
        namespace: &NamespaceName,
        digest: Digest,
        archive: Bytes,
        sent: impl FnMut(u64) + Send + 'static,
    ) -> anyhow::Result<FilesInfo> {
        let path = format!("/v1/namespaces/{namespace}/files/{digest}");
        match self.get(&path).await {
            Err(error) if is_not_found(&error) => {
                self.json(self.upload(&path, "application/x-tar", archive, sent)).await
            }
            other => other,
        }
    }

    /// Uploads content; `sent` is called with the number of octets that have left so far.
    pub async fn put_artifact(
        &self,
        namespace: &NamespaceName,
        digest: Digest,
        content: impl Into<Content>,
        sent: impl FnMut(u64) + Send + 'static,
    ) -> anyhow::Result<ArtifactInfo> {
        let path = format!("/v1/namespaces/{namespace}/artifacts/{digest}");
        let request = match content.into() {
            Content::Octets(octets) => self.upload(&path, "application/wasm", octets, sent),
            Content::File(file) => self.upload_file(&path, &file, sent).await?,
            // Opened before this returns, so it is read to its end although its name goes.
            Content::Unpacked(file) => self.upload_file(&path, &file, sent).await?,
        };
        self.json(request).await
    }

    async fn upload_file(
        &self,
        path: &str,
        file: &Path,
        mut sent: impl FnMut(u64) + Send + 'static,
    ) -> anyhow::Result<RequestBuilder> {
        let could_not = || format!("could not read {}", file.display());
        let opened = tokio::fs::File::open(file).await.with_context(could_not)?;
        let length = opened.metadata().await.with_context(could_not)?.len();
        let mut so_far = 0;
        let chunks = ReaderStream::with_capacity(opened, CHUNK_BYTES).inspect_ok(move |chunk| {
            so_far += chunk.len() as u64;
            sent(so_far);
        });
        // The server looks what it is, whatever it is called.
        Ok(self.put(path, "application/wasm", length).body(reqwest::Body::wrap_stream(chunks)))
    }

    fn upload(
        &self,
        path: &str,
        content_type: &'static str,
        content: Bytes,
        mut sent: impl FnMut(u64) + Send + 'static,
    ) -> RequestBuilder {
        let length = content.len();
        let offsets = (0..length).step_by(CHUNK_BYTES);
        let chunks = offsets.map(move |start| {
            let end = length.min(start + CHUNK_BYTES);
            sent(end as u64);
            Ok::<_, std::io::Error>(content.slice(start..end))
        });
        self.put(path, content_type, length as u64)
            .body(reqwest::Body::wrap_stream(futures::stream::iter(chunks)))
    }

    fn put(&self, path: &str, content_type: &'static str, length: u64) -> RequestBuilder {
        self.request(Method::PUT, path)
            .timeout(UPLOAD_TIMEOUT)
            .header(http::header::CONTENT_TYPE, content_type)
            .header(http::header::CONTENT_LENGTH, length)
    }

    pub async fn create_release(&self, app: &AppRef, release: &CreateRelease) -> anyhow::Result<Deployed> {
        self.once_only(app.request(self, Method::POST, "/releases").json(release)).await
    }

    pub async fn apps(&self, namespace: &NamespaceName) -> anyhow::Result<Vec<AppInfo>> {
        self.all(&format!("/v1/namespaces/{namespace}/apps")).await
    }

    pub async fn app(&self, app: &AppRef) -> anyhow::Result<AppInfo> {
        self.json(app.request(self, Method::GET, "")).await
    }

    pub async fn why(&self, app: &AppRef) -> anyhow::Result<Why> {
        self.json(app.request(self, Method::GET, "/why")).await
    }

    pub async fn releases(&self, app: &AppRef) -> anyhow::Result<Vec<ReleaseInfo>> {
        self.all(&app.path("/releases")).await
    }

    /// The rollout as it is, or, with `wait`, as it is when it is decided or the time is up.
    pub async fn rollout(&self, app: &AppRef, id: RolloutId, wait: Duration) -> anyhow::Result<RolloutInfo> {
        let request = app
            .request(self, Method::GET, &format!("/rollouts/{id}"))
            .query(&[("wait", format!("{}ms", wait.as_millis()))])
            .timeout(wait + self.reply_timeout);
        self.json(request).await
    }

    pub async fn rollback(&self, app: &AppRef, release: Option<u64>) -> anyhow::Result<Deployed> {
        self.once_only(app.request(self, Method::POST, "/rollback").json(&Rollback { release })).await
    }

    /// None: as many as each release asks for.
    pub async fn scale(&self, app: &AppRef, replicas: Option<u32>) -> anyhow::Result<()> {
        self.done(app.request(self, Method::PUT, "/scale").json(&Scale { replicas })).await
    }

    pub async fn patch_env(&self, app: &AppRef, patch: &EnvPatch) -> anyhow::Result<Deployed> {
        self.once_only(app.request(self, Method::PATCH, "/env").json(patch)).await
    }

    /// The variables of the current release.
    pub async fn env(&self, app: &AppRef) -> anyhow::Result<Env> {
        self.json(app.request(self, Method::GET, "/env")).await
    }

    pub async fn restart(&self, app: &AppRef) -> anyhow::Result<Deployed> {
        self.once_only(app.request(self, Method::POST, "/restart")).await
    }

    /// Whether the app is gone; otherwise the platform is still stopping what it runs.
    pub async fn delete_app(&self, app: &AppRef, with_volumes: bool) -> anyhow::Result<bool> {
        let rest = if with_volumes { "?volumes=remove" } else { "" };
        let response = self.send(app.request(self, Method::DELETE, rest)).await?;
        Ok(response.status() != StatusCode::ACCEPTED)
    }

    pub async fn volumes(&self, namespace: &NamespaceName) -> anyhow::Result<Vec<VolumeInfo>> {
        self.all(&format!("/v1/namespaces/{namespace}/volumes")).await
    }

    pub async fn remove_volume(&self, namespace: &NamespaceName, id: VolumeId) -> anyhow::Result<()> {
        self.done(self.request(Method::DELETE, &format!("/v1/namespaces/{namespace}/volumes/{id}"))).await
    }

    /// Reads a reply's head only, for its date.
    pub async fn head(&self) -> anyhow::Result<http::HeaderMap> {
        Ok(self.send(self.request(Method::GET, "/v1/whoami")).await?.headers().clone())
    }
}

fn is_not_found(error: &anyhow::Error) -> bool {
    error.downcast_ref::<Problem>().is_some_and(|problem| problem.code == ProblemCode::NotFound)
}

impl AppRef {
    /// The path of something of the app.
    pub fn path(&self, rest: &str) -> String {
        format!("/v1/namespaces/{}/apps/{}{rest}", self.namespace, self.app)
    }

    pub(super) fn request(&self, client: &Client, method: Method, rest: &str) -> RequestBuilder {
        client.request(method, &self.path(rest))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_server::{self, TestServer};

    #[tokio::test]
    async fn only_a_platform_can_say_that_it_lacks_an_artifact() {
        let unknown = Problem::new(ProblemCode::NotFound, "there is no such artifact");
        let stranger =
            "HTTP/1.1 404 Not Found\r\nconnection: close\r\ncontent-length: 4\r\n\r\ngone".to_owned();
        let server = TestServer::spawn(vec![test_server::json("404 Not Found", &unknown), stranger]).await;
        let (client, namespace) = (server.client(), NamespaceName::default_namespace());
        assert_eq!(client.find_artifact(&namespace, Digest::of(b"")).await.unwrap(), None);
        let error = client.find_artifact(&namespace, Digest::of(b"")).await.unwrap_err();
        assert!(error.to_string().contains("is not a Wharf platform"), "{error}");
    }

    #[tokio::test]
    async fn an_upload_arrives_whole_and_tells_how_far_it_is() {
        let content = Bytes::from(vec![b'x'; 200_000]);
        let digest = Digest::of(&content);
        let info = ArtifactInfo {
            digest,
            bytes: 200_000,
            world: wharf_types::world::World::HttpProxy,
            imports: Vec::new(),
            capabilities: Vec::new(),
        };
        let server = TestServer::spawn(vec![test_server::json("201 Created", &info)]).await;
        let so_far = std::sync::Arc::new(std::sync::atomic::AtomicU64::new(0));
        let told = so_far.clone();
        let sent = move |bytes| told.store(bytes, std::sync::atomic::Ordering::Relaxed);
        let namespace = NamespaceName::default_namespace();
        server.client().put_artifact(&namespace, digest, content, sent).await.unwrap();
        assert_eq!(so_far.load(std::sync::atomic::Ordering::Relaxed), 200_000);
        assert!(server.requests()[0].ends_with(&"x".repeat(200_000)));
    }
}
