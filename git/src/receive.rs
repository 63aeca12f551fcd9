//! A push, from its first octet to the end of `git receive-pack`.
//!
//! It runs in a task of its own: the client looks at it through a [`window`](crate::window), and may go away.

mod feed;
pub(crate) mod hook;
mod process;
mod refusal;
pub(crate) mod turn;

use std::io;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{FutureExt as _, Stream, StreamExt as _};
use tokio::net::unix::pipe;
use tokio::sync::mpsc;
use tokio::task::JoinError;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::task::AbortOnDropHandle;

use crate::git::GitError;
use crate::limits::Limits;
use crate::objects::Objects;
use crate::progress::{LINES, Progress, Said};
use crate::push_head::{InvalidPush, PushHead};
use crate::ref_name::RefUpdate;
use crate::repositories::Repository;
use crate::window::{self, Answer, Window};
use feed::{Body, Fed, FeedError};
use hook::{HookError, Request};
use process::ReceivePack;
use refusal::Refusal;
use turn::Turn;

/// How long the answer to a push waits for its end to be taken note of.
const KNOWN: Duration = Duration::from_secs(2);
/// How long the hook may take to hear the verdict.
const HEAR: Duration = Duration::from_secs(30);

/// Who decides on a push. One is made for each; it is dropped without a word if the push never gets so far.
pub trait Handler: Send + 'static {
    /// Decides, once everything has arrived and was checked. It takes as long as it needs, also when the client has gone meanwhile.
    fn push(&mut self, push: Push, progress: Progress) -> impl Future<Output = Verdict> + Send;

    /// Hears, once after each [`push`](Self::push), what came of it.
    fn ended(self, outcome: Outcome) -> impl Future<Output = ()> + Send;
}

/// What was pushed.
#[derive(Clone, Debug)]
pub struct Push {
    pub updates: Vec<RefUpdate>,
    /// As given with `git push -o`.
    pub options: Vec<String>,
    /// Of the repository and of this push, until it is decided on.
    pub objects: Objects,
}

/// Whether a push is taken, all of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Accept,
    /// No ref moves. The reason is the last line that the client sees behind `remote:`.
    Refuse(String),
}

/// Which refs have moved. None has after [`Verdict::Refuse`]; after [`Verdict::Accept`] some may not, as where a disk was full.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    pub moved: Vec<RefUpdate>,
    pub unmoved: Vec<RefUpdate>,
}

/// Why there is no answer to a push. What is wrong with a push that git understands is an answer.
#[derive(Debug, thiserror::Error)]
pub enum ReceiveError {
    #[error(transparent)]
    Push(#[from] InvalidPush),
    #[error("the push broke off")]
    Body(#[source] io::Error),
    #[error("the push was too slow: push again")]
    Slow,
    #[error("the answer to the push was not read")]
    Unread,
    #[error(transparent)]
    Hook(#[from] HookError),
    #[error(transparent)]
    Git(#[from] GitError),
}

impl ReceiveError {
    /// Whether the client has to do something else, not this host.
    pub fn is_the_clients(&self) -> bool {
        matches!(self, Self::Push(_) | Self::Body(_) | Self::Slow | Self::Unread)
    }
}

impl Outcome {
    fn none_moved(updates: Vec<RefUpdate>) -> Self {
        Self { moved: Vec::new(), unmoved: updates }
    }
}

impl Repository {
    /// Takes a push. The body is plain (see [`crate::decoded`]).
    ///
    /// It comes back with the first octets of the answer: then everything has arrived, unless it was refused before. That way a client that
    /// waits for `100 Continue` gets this first. The push goes on, whatever becomes of this future and of the answer.
    pub async fn receive(
        &self,
        body: impl Stream<Item = io::Result<Bytes>> + Send + 'static,
        handler: impl Handler,
    ) -> Result<Answer, ReceiveError> {
        hook::check(self.shared.git.hooks())?;
        let (window, answer) = window::open();
        let turn = Turn::take(self).await?;
        self.shared.pushes.spawn(run(turn, body.boxed(), window, handler));
        answer.begun().await
    }
}

/// What is left to do once the answer has ended: to listen to a client that still sends.
type Rest = BoxFuture<'static, ()>;

/// The course of a push.
async fn run(turn: Turn, mut body: Body, window: Window, handler: impl Handler) {
    let repository = turn.repository().clone();
    let limits = repository.shared.limits.clone();
    let end = Instant::now() + limits.receive;
    let rest = match feed::head(&mut body, &limits, end).await {
        Err(error) => {
            window.fail(error);
            feed::drain(body).boxed()
        }
        // Before a large push, git asks with an empty one whether it will be let in.
        Ok((head, _)) if head.updates.is_empty() => feed::drain(body).boxed(),
        Ok((head, first)) => match refusal::of_head(&head, &limits) {
            Some(refusal) => {
                window.show(refusal.report(&head));
                feed::drain(body).boxed()
            }
            None => {
                let receiving = Receiving { repository, head, window: window.clone(), handler, end };
                receiving.run(first, body).await
            }
        },
    };
    window.end();
    turn.end().await;
    rest.await;
}

/// A push that git takes in.
struct Receiving<H> {
    repository: Repository,
    head: PushHead,
    window: Window,
    handler: H,
    /// By when everything must be here.
    end: Instant,
}

/// How the first part of a push ended.
enum Taken {
    /// Everything is here, and git asks.
    Asked(Request),
    /// Git found something wrong with it, and has told the client.
    Ended,
    /// `Fed`: where the client may still send.
    Refused(Refusal, Option<Fed>),
    Broken(io::Error),
    Failed(HookError),
}

impl<H: Handler> Receiving<H> {
    async fn run(self, first: Bytes, body: Body) -> Rest {
        let limits = self.repository.shared.limits.clone();
        let (git, input, channel) = match ReceivePack::start(&self.repository, self.window.clone()) {
            Ok(started) => started,
            Err(error) => {
                self.window.fail(error.into());
                return feed::drain(body).boxed();
            }
        };
        let feed = tokio::spawn(feed::feed(first, body, input, limits.clone(), self.end));
        let mut feed = Some(AbortOnDropHandle::new(feed));
        match take_in(channel.requests, &mut feed, &limits, self.end).await {
            Taken::Asked(request) => self.decide(request, git, channel.answers).await,
            Taken::Ended => {
                if let Err(error) = git.finish(limits.settle).await {
                    self.window.fail(error.into());
                }
            }
            Taken::Refused(refusal, fed) => {
                // Git is stopped before its input ends, or it would say that something is missing.
                if git.stop().await {
                    self.window.show(refusal.report(&self.head));
                }
                if let Some(fed) = fed {
                    return feed::drain(fed.body).boxed();
                }
            }
            Taken::Broken(error) => {
                git.stop().await;
                self.window.fail(ReceiveError::Body(error));
            }
            Taken::Failed(error) => {
                git.stop().await;
                self.window.fail(error.into());
            }
        }
        match feed {
            Some(feed) => timeout(feed::DRAIN, feed).map(drop).boxed(),
            None => futures::future::ready(()).boxed(),
        }
    }

    /// Asks the handler, tells git, and tells the handler what came of it.
    async fn decide(mut self, request: Request, git: ReceivePack, answers: pipe::Sender) {
        let (said, lines) = mpsc::channel(LINES);
        let speaker = AbortOnDropHandle::new(tokio::spawn(hook::speak(lines, answers)));
        let progress = Progress::new(said.clone(), self.window.clone());
        let updates = request.updates.clone();
        let refused = objection(&self.repository, &updates).await;
        let is_asked = refused.is_none();
        let verdict = match refused {
            Some(reason) => Verdict::Refuse(reason),
            None => self.ask(request, progress.clone()).await,
        };
        let is_accepted = verdict == Verdict::Accept;
        let verdict = match verdict {
            Verdict::Accept => Said::Accept,
            Verdict::Refuse(reason) => {
                progress.line(&reason);
                Said::Refuse
            }
        };
        let heard = timeout(HEAR, async {
            let _ = said.send(verdict).await;
            let _ = speaker.await;
        });
        if heard.await.is_err() {
            git.stop().await;
        } else if let Err(error) = git.finish(self.repository.shared.limits.settle).await {
            tracing::warn!("a push to {} did not end well: {error}", self.repository.path.display());
        }
        if is_asked {
            let outcome = outcome(&self.repository, updates, is_accepted).await;
            let mut ended = Box::pin(self.handler.ended(outcome));
            // Whoever has pushed looks next at what came of it.
            if timeout(KNOWN, &mut ended).await.is_err() {
                self.window.end();
                ended.await;
            }
        }
        self.window.end();
    }

    async fn ask(&mut self, request: Request, progress: Progress) -> Verdict {
        let push = Push {
            updates: request.updates,
            options: std::mem::take(&mut self.head.options),
            objects: self.repository.objects_with(request.quarantine),
        };
        // What a handler does may be large, and is not to lie on the stack with all that leads here.
        let asked = AssertUnwindSafe(Box::pin(self.handler.push(push, progress))).catch_unwind().await;
        asked.unwrap_or_else(|_| Verdict::Refuse("the server has failed: see its log".to_owned()))
    }
}

/// Waits until everything is here and was checked. What feeds git is taken away once it has ended.
async fn take_in(
    requests: pipe::Receiver,
    feed: &mut Option<AbortOnDropHandle<Fed>>,
    limits: &Limits,
    end: Instant,
) -> Taken {
    let asked = hook::request(requests);
    tokio::pin!(asked);
    loop {
        tokio::select! {
            asked = &mut asked => return match asked {
                Ok(Some(request)) => Taken::Asked(request),
                Ok(None) => Taken::Ended,
                Err(error) => Taken::Failed(error),
            },
            fed = ended(feed), if feed.is_some() => match fed {
                Ok(mut fed) => match std::mem::replace(&mut fed.result, Ok(())) {
                    Ok(()) => {}
                    Err(FeedError::Broken(error)) => return Taken::Broken(error),
                    Err(FeedError::Stalled(stall)) => return Taken::Refused(Refusal::Stalled(stall), Some(fed)),
                    Err(FeedError::Slow) => return Taken::Refused(Refusal::Slow(limits.receive), Some(fed)),
                    Err(FeedError::TooLarge) => {
                        return Taken::Refused(Refusal::TooLarge(limits.pack_max_bytes), Some(fed));
                    }
                },
                Err(panic) => return Taken::Broken(panic.into()),
            },
            () = sleep_until(end), if feed.is_none() => {
                return Taken::Refused(Refusal::Slow(limits.receive), None);
            }
        }
    }
}

async fn ended(feed: &mut Option<AbortOnDropHandle<Fed>>) -> Result<Fed, JoinError> {
    let ended = match feed {
        Some(running) => running.await,
        None => std::future::pending().await,
    };
    *feed = None;
    ended
}

/// Why the push is refused without asking.
async fn objection(repository: &Repository, updates: &[RefUpdate]) -> Option<String> {
    match repository.refs().await {
        Ok(refs) => refusal::of_updates(updates, &refs).map(|refusal| refusal.to_string()),
        Err(error) => {
            tracing::error!("the refs of {} cannot be read: {error}", repository.path.display());
            Some("the server cannot read its repository: see its log".to_owned())
        }
    }
}

/// What the repository says now, whatever git has said.
async fn outcome(repository: &Repository, updates: Vec<RefUpdate>, is_accepted: bool) -> Outcome {
    if !is_accepted {
        return Outcome::none_moved(updates);
    }
    match repository.refs().await {
        Ok(refs) => {
            let (moved, unmoved) =
                updates.into_iter().partition(|update| refs.get(&update.name).copied() == update.new);
            Outcome { moved, unmoved }
        }
        Err(error) => {
            tracing::error!("the refs of {} cannot be read: {error}", repository.path.display());
            Outcome::none_moved(updates)
        }
    }
}
