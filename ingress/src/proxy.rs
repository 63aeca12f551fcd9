//! What happens to one request: it is checked, marked with its client, given to an instance, and answered.

use std::sync::{Arc, PoisonError, Weak};

use arc_swap::ArcSwap;
use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use http::header::{ACCEPT, HOST};
use http::uri::PathAndQuery;
use http::{HeaderValue, Method, Request, Response, StatusCode, Version};
use http_body::Body;
use hyper::body::Incoming;
use tokio::sync::watch;
use tokio_util::task::TaskTracker;

use crate::BoxError;
use crate::body::{Answer, OpenRequest, ResponseBody};
use crate::call::{CallError, LocalCall};
use crate::config::Config;
use crate::connection::Connection;
use crate::error::{ErrorCode, IngressError};
use crate::forwarded::{Client, RequestId};
use crate::load::Waiting;
use crate::meter::Meter;
use crate::peers::{PeerBody, PeerError};
use crate::request_body::RequestBody;
use crate::router::{Match, Route, Router};
use crate::start::{ForRoutes, Start};
use crate::stats::{Stats, add_one};
use crate::upgrade::{self, Asked, NotHandedOn, TakenOver, Upgraded, Way};
use crate::uri::Refused;
use crate::{headers, limit, page, uri};

/// Instances that are asked for one request. Asking another is safe: the first one has not touched the request.
const ATTEMPTS_MAX: usize = 2;
/// Nodes of which it may turn out that nothing can be sent to them, beside those.
const UNREACHABLE_MAX: usize = 3;

/// Header fields of one request. HTTP/1 has the same limit from hyper; HTTP/2 would allow thousands of tiny ones.
const HEADER_FIELDS_MAX: usize = 100;

/// Why an instance elsewhere does not go over to another protocol.
const TOO_OLD: &str = "the worker beside the instance is of a version that hands no upgrades on: upgrade it";

/// What all connections of an ingress share.
pub(crate) struct Shared {
    pub(crate) config: Config,
    pub(crate) start: Start,
    pub(crate) table: ArcSwap<Router>,
    /// The generation of the table, for those who wait for another.
    pub(crate) installed: watch::Sender<u64>,
    pub(crate) stats: Arc<Stats>,
}

/// What all requests of a connection share.
pub(crate) struct Session {
    pub(crate) shared: Arc<Shared>,
    pub(crate) connection: Arc<Connection>,
    pub(crate) client: Client,
    /// Streams.
    pub(crate) tasks: TaskTracker,
    /// Where the connection itself goes over to something else. None: nobody waits for that any more.
    pub(crate) taken_over: Weak<upgrade::Slot>,
}

/// Nobody is left to answer to, so the connection, or the stream, ends without an answer.
#[derive(Debug, thiserror::Error)]
#[error("the client went away")]
pub(crate) struct ClientGone;

/// What an error needs to know about a request that has been given away.
struct Summary {
    method: Method,
    host: Option<String>,
    path: Option<PathAndQuery>,
    accept: Option<HeaderValue>,
    is_http2: bool,
    id: RequestId,
}

/// Why a request gets an answer of ours.
struct Failure {
    code: ErrorCode,
    owner: Option<(wharf_types::NamespaceName, wharf_types::AppName)>,
    detail: Option<String>,
    /// Shown to the client.
    hint: Option<String>,
    /// Counts it, where no instance was asked.
    meter: Option<Arc<Meter>>,
}

impl From<NotHandedOn> for Failure {
    fn from(why: NotHandedOn) -> Self {
        match why {
            NotHandedOn::Failed(detail) => Self { detail: Some(detail), ..ErrorCode::GuestFailed.into() },
            NotHandedOn::NotTakenOver => {
                let hint = "The app does not go over to this protocol.".to_owned();
                Self { hint: Some(hint), ..ErrorCode::NotImplemented.into() }
            }
        }
    }
}

/// An instance that was asked.
enum Called<F> {
    Here(F),
    Peer(BoxFuture<'static, Result<Response<PeerBody>, PeerError>>),
}

impl<F, B> Called<F>
where
    F: Future<Output = Result<Response<B>, CallError>>,
{
    async fn answer(self) -> Result<Response<Answer<B>>, PeerError> {
        match self {
            Self::Here(call) => match call.await {
                Ok(response) => Ok(response.map(Answer::Left)),
                Err(error) => Err(PeerError::Call(error)),
            },
            Self::Peer(call) => call.await.map(|response| response.map(Answer::Right)),
        }
    }
}

impl From<ErrorCode> for Failure {
    fn from(code: ErrorCode) -> Self {
        Self { code, owner: None, detail: None, hint: None, meter: None }
    }
}

pub(crate) async fn answer<S, B>(
    session: Arc<Session>,
    mut service: S,
    request: Request<Incoming>,
) -> Result<Response<ResponseBody<B>>, ClientGone>
where
    S: tower::Service<LocalCall, Response = Response<B>, Error = CallError>,
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    let mut open = OpenRequest::begin(session);
    let (mut request, mut summary, checked) = prepare(&open.session, request);
    let asked = match checked {
        Ok(asked) => asked,
        Err(refused) => {
            let failure = Failure { hint: Some(refused.hint.to_owned()), ..refused.code.into() };
            return Ok(fail(open, failure, &summary));
        }
    };
    let (mut tried, mut attempts, mut unreachable, mut is_admitted) = (Vec::new(), 0, 0, false);
    let mut was_elsewhere = false;
    let mut waiting: Option<Waiting> = None;
    let (mut starting, mut looks_again): (Option<ForRoutes>, bool) = (None, false);
    let mut failure = Failure::from(ErrorCode::NoReadyInstance);
    loop {
        if attempts >= ATTEMPTS_MAX || unreachable > UNREACHABLE_MAX {
            if failure.code != ErrorCode::NoReadyInstance || !open.session.shared.lets_wait(&mut starting) {
                break;
            }
            // Instances that the routes have may have to be taken up again first.
            tried.clear();
            (attempts, unreachable, looks_again) = (0, 0, true);
        }
        if let Some(waits) = &mut waiting
            && let Err(no_wait) = waits.go_on().await
        {
            failure.detail = Some(no_wait.detail(&open.session.shared.config));
            break;
        }
        if std::mem::take(&mut looks_again)
            && let Some(waits) = &mut starting
            && !waits.look_again().await
        {
            break;
        }
        if let Err(error) = std::future::poll_fn(|cx| service.poll_ready(cx)).await {
            failure = failure_of(error).ok_or(ClientGone)?;
            break;
        }
        // Choosing and calling happen without a pause in between, and the table is held just as long: once the table has
        // been replaced and nobody holds it, every request that was routed by it has reached its instance.
        let call = {
            let router = open.session.shared.table.load();
            let host = request.uri().authority().map_or("", |authority| authority.as_str());
            let route = match router.find(host, request.uri().path()) {
                Match::Route(route) => Ok(route),
                Match::UnknownHost if router.is_none_yet() => Err(ErrorCode::Starting),
                Match::UnknownHost => Err(ErrorCode::UnknownHost),
                Match::UnknownPath => Err(ErrorCode::UnknownPath),
            };
            let route = match route {
                Ok(route) => route,
                Err(code) => {
                    summary.host = Some(host.to_owned());
                    failure = code.into();
                    looks_again = code == ErrorCode::Starting && open.session.shared.lets_wait(&mut starting);
                    if looks_again {
                        continue;
                    }
                    break;
                }
            };
            // Asked once for a request, however many instances are; without a quota there is nothing to ask.
            if !is_admitted
                && let Some(limit) = &route.limit
                && !limit.admit(limit::now())
            {
                failure = ErrorCode::RateLimited.into();
                failure.owner = Some((route.namespace.clone(), route.app.clone()));
                break;
            }
            if !is_admitted && route.egress.is_some() {
                open.pace(route.egress.clone());
            }
            is_admitted = true;
            let Some(target) = route.choose(&tried, |below| rand::random_range(0..below)).cloned() else {
                failure = unserved(route, failure);
                if failure.code == ErrorCode::NoReadyInstance && open.session.shared.lets_wait(&mut starting)
                {
                    tried.clear();
                    looks_again = true;
                    continue;
                }
                let Some(load) = route.wakes.as_ref().filter(|_| failure.code == ErrorCode::Waking) else {
                    break;
                };
                if waiting.is_none() {
                    let Shared { config, installed, stats, .. } = &*open.session.shared;
                    match stats.loads.wait(load.clone(), config, installed) {
                        Ok(waits) => waiting = Some(waits),
                        Err(no_wait) => {
                            failure.detail = Some(no_wait.detail(config));
                            break;
                        }
                    }
                }
                continue;
            };
            let (instance, peer, remote) = (target.instance, target.peer.clone(), open.session.client.remote);
            waiting = None;
            attempts += 1;
            if std::mem::take(&mut was_elsewhere) {
                add_one(&open.session.shared.stats.peers.retried);
            }
            open.count_towards(target);
            match peer {
                None => Called::Here(service.call(LocalCall { instance, request, remote })),
                Some(peer) => {
                    was_elsewhere = true;
                    Called::Peer(peer.call(instance, request, remote).boxed())
                }
            }
        };
        let error = match call.answer().await {
            Ok(response) => return Ok(pass(open, response, &summary, asked)),
            Err(error) => error,
        };
        tried.extend(open.target().map(|target| target.instance));
        match error {
            PeerError::Unreachable { request: untouched, why } => {
                // It has not been asked.
                attempts -= 1;
                unreachable += 1;
                failure = Failure { detail: Some(why.to_string()), ..ErrorCode::NoReadyInstance.into() };
                request = *untouched;
            }
            PeerError::Call(CallError::NotHere(untouched)) => {
                failure = ErrorCode::NoReadyInstance.into();
                request = *untouched;
            }
            PeerError::Call(CallError::Busy(Some(untouched))) => {
                failure = ErrorCode::Busy.into();
                request = *untouched;
            }
            PeerError::TooOld(untouched) => {
                failure = Failure {
                    hint: Some("The app cannot go over to another protocol at the moment.".to_owned()),
                    detail: Some(TOO_OLD.to_owned()),
                    ..ErrorCode::NotImplemented.into()
                };
                request = *untouched;
            }
            PeerError::Lost(why) => {
                failure = Failure { detail: Some(why), ..ErrorCode::NodeLost.into() };
                break;
            }
            PeerError::Call(error) => match failure_of(error) {
                Some(ended) => {
                    failure = ended;
                    break;
                }
                None => {
                    add_one(&open.session.shared.stats.client_gone);
                    return Err(ClientGone);
                }
            },
        }
    }
    Ok(fail(open, failure, &summary))
}

/// Nothing of the app can take the request. `before` is why an instance did not, if one was asked.
fn unserved(route: &Route, before: Failure) -> Failure {
    let failure = match (route.stopped, &route.wakes) {
        (true, _) => ErrorCode::AppStopped.into(),
        // An instance that is there, and full, is not waited for any longer than that of any other app.
        (false, Some(_)) if before.code != ErrorCode::Busy => ErrorCode::Waking.into(),
        (false, _) => before,
    };
    Failure {
        owner: Some((route.namespace.clone(), route.app.clone())),
        // A stopped app fails nobody: it was to answer so.
        meter: (!route.stopped).then(|| route.unserved.clone()),
        ..failure
    }
}

/// Checks a request and makes it what the guest gets.
fn prepare(
    session: &Session,
    request: Request<Incoming>,
) -> (Request<RequestBody>, Summary, Result<Option<Asked>, Refused>) {
    let (mut parts, body) = request.into_parts();
    let checked = if parts.headers.len() > HEADER_FIELDS_MAX {
        Err(Refused { code: ErrorCode::HeaderTooLarge, hint: "Send fewer." })
    } else {
        upgrade::take(&mut parts, !body.is_end_stream())
            .and_then(|asked| uri::make_absolute(&mut parts, &session.client.scheme).map(|()| asked))
    };
    headers::strip_request(&mut parts.headers, |name| session.client.is_spoofed(name));
    let id = session.client.mark(&mut parts.headers, rand::random);
    // Where the request is good, its host is of interest only if nobody has it.
    let host = match checked {
        Ok(_) => None,
        Err(_) => parts.headers.get(HOST).and_then(|host| host.to_str().ok()).map(str::to_owned),
    };
    let summary = Summary {
        method: parts.method.clone(),
        host,
        path: parts.uri.path_and_query().cloned(),
        accept: parts.headers.get(ACCEPT).cloned(),
        is_http2: parts.version == Version::HTTP_2,
        id,
    };
    let body = RequestBody::new(body, &session.connection, summary.is_http2);
    (Request::from_parts(parts, body), summary, checked)
}

/// None: nobody is left to answer to.
fn failure_of(error: CallError) -> Option<Failure> {
    Some(match error {
        CallError::NotHere(_) => ErrorCode::NoReadyInstance.into(),
        CallError::Busy(_) => ErrorCode::Busy.into(),
        CallError::OverQuota(detail) => Failure { detail: Some(detail), ..ErrorCode::QuotaReached.into() },
        CallError::Timeout(detail) => Failure { detail: Some(detail), ..ErrorCode::GuestTimeout.into() },
        CallError::BodyTooLarge => ErrorCode::BodyTooLarge.into(),
        CallError::Failed(detail) => Failure { detail: Some(detail), ..ErrorCode::GuestFailed.into() },
        CallError::BadRequest(hint) => Failure { hint: Some(hint), ..ErrorCode::BadRequest.into() },
        CallError::ClientGone => return None,
    })
}

/// Hands a guest's response on.
fn pass<B>(
    open: OpenRequest,
    response: Response<Answer<B>>,
    summary: &Summary,
    asked: Option<Asked>,
) -> Response<ResponseBody<B>> {
    let (mut parts, body) = response.into_parts();
    let instance = parts.extensions.remove::<Upgraded>().and_then(Upgraded::take);
    let is_granted = match Asked::is_granted(asked.as_ref(), parts.status, &parts.headers, instance.is_some())
    {
        Ok(is_granted) => is_granted,
        Err(not_handed_on) => return fail(open, not_handed_on.into(), summary),
    };
    open.is_answered(parts.status);
    parts.version = Version::HTTP_11;
    headers::strip_response(&mut parts.headers);
    // Over HTTP/2 the HTTP library would send what there is.
    let has_only_head = summary.method == Method::HEAD || parts.status == StatusCode::NOT_MODIFIED;
    let is_whole =
        headers::without_content(parts.status, &mut parts.headers) || summary.is_http2 && has_only_head;
    match (asked, instance) {
        (Some(asked), Some(instance)) if is_granted => {
            parts.status = asked.grant(&mut parts.headers);
            take_over(asked, TakenOver::new(open, instance));
            Response::from_parts(parts, ResponseBody::Nothing)
        }
        _ if is_whole => Response::from_parts(parts, ResponseBody::Own { body: None, open }),
        _ => Response::from_parts(parts, ResponseBody::Guest { body, open: Some(open) }),
    }
}

/// Has the connection, or the stream, carried on once the client has its answer.
fn take_over(asked: Asked, taken_over: TakenOver) {
    let session = taken_over.session().clone();
    match asked.way {
        // Whoever serves the connection finds it there when HTTP has ended.
        Way::Connection => {
            if let Some(slot) = session.taken_over.upgrade() {
                *slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(taken_over);
            }
        }
        Way::Stream { stream, .. } => {
            session.tasks.spawn(taken_over.over_stream(stream));
        }
    }
}

/// Answers with an error of ours, and tells the binary.
fn fail<B>(open: OpenRequest, failure: Failure, summary: &Summary) -> Response<ResponseBody<B>> {
    let Failure { code, owner, detail, hint, meter } = failure;
    let target = open.target();
    if let Some(meter) = target.map(|target| &target.meter).or(meter.as_ref()) {
        meter.refused(code.status());
    }
    let owner = owner.or_else(|| target.map(|target| (target.namespace.clone(), target.app.clone())));
    let (namespace, app) = owner.unzip();
    let error = IngressError {
        code,
        namespace,
        app,
        instance: target.map(|target| target.instance),
        method: summary.method.clone(),
        host: summary.host.clone(),
        path: summary.path.as_ref().map_or_else(String::new, |path| path.path().to_owned()),
        remote: open.session.client.remote,
        request_id: summary.id.text(),
        detail: detail.or_else(|| hint.clone()),
    };
    open.session.shared.stats.count_error(code);
    (open.session.shared.config.on_error)(&error);
    let response = page::response(code, summary.accept.as_ref(), hint.as_deref(), &error.request_id);
    response.map(|body| ResponseBody::Own { body: Some(body), open })
}

impl Shared {
    /// Replaces the routes, and returns once nobody chooses by the old ones any more.
    /// Whether a request that finds nobody yet looks again.
    fn lets_wait(&self, waiting: &mut Option<ForRoutes>) -> bool {
        self.start.has_patience(waiting, &self.installed)
    }

    pub(crate) async fn install(&self, router: Router) {
        let generation = router.generation();
        let old = self.table.swap(Arc::new(router));
        self.installed.send_replace(generation);
        // Holders never wait for anything, so this is over in microseconds.
        while Arc::strong_count(&old) > 1 {
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
    }
}
