//! The connection with the metadata daemon, and whether the session is attached over it: what every
//! call to the server goes through.

use cairn_common::error::{FsError, FsResult};
use cairn_common::ids::{Epoch, SessionId};
use cairn_common::proto::meta::MetaServiceClient;
use cairn_common::rpc::{Live, Reconnecting};
use std::future::Future;
use std::time::Duration;
use tarpc::client::RpcError;
use tokio::sync::watch;

/// Longest wait for one answer. The server itself may wait for other mounts to give something back,
/// as long as its session time-out (30 s by default) lasts: this is longer.
pub const CALL_DEADLINE: Duration = Duration::from_secs(60);
/// Pause before a request is repeated that the server refused for the moment.
const REFUSED_PAUSE: Duration = Duration::from_millis(100);

/// A session that is attached over a living connection.
#[derive(Clone)]
pub struct Attached {
    pub live: Live<MetaServiceClient>,
    pub session: SessionId,
    pub epoch: Epoch,
}

impl Attached {
    /// The stub, for one call.
    #[must_use]
    pub fn client(&self) -> MetaServiceClient {
        MetaServiceClient::clone(&self.live)
    }
}

/// Where the session stands.
#[derive(Clone)]
pub enum State {
    /// No connection, or the session is not taken up again on it yet.
    Detached,
    Attached(Attached),
    /// The mount is going away.
    Ended,
}

/// Sends calls over the attached connection, and waits for it when there is none.
pub struct Calls {
    pub link: Reconnecting<MetaServiceClient>,
    pub state: watch::Sender<State>,
    /// `soft`: give up after this long.
    timeout: Option<Duration>,
}

impl Calls {
    pub fn new(link: Reconnecting<MetaServiceClient>, timeout: Option<Duration>) -> Calls {
        Calls { link, state: watch::Sender::new(State::Detached), timeout }
    }

    /// The attached session, as soon as there is one.
    pub async fn attached(&self) -> FsResult<Attached> {
        // Borrowed first, so that the usual case costs no subscription.
        match &*self.state.borrow() {
            State::Attached(attached) => return Ok(attached.clone()),
            State::Ended => return Err(FsError::Evicted),
            State::Detached => {}
        }
        let mut state = self.state.subscribe();
        let state = state.wait_for(|state| !matches!(state, State::Detached)).await;
        match state.as_deref() {
            Ok(State::Attached(attached)) => Ok(attached.clone()),
            Ok(State::Detached | State::Ended) | Err(_) => Err(FsError::Evicted),
        }
    }

    /// The connection of `attached` is of no use any more: the session must be taken up again.
    pub fn broken(&self, attached: &Attached) {
        self.link.invalidate(&attached.live);
        self.state.send_if_modified(|state| match state {
            State::Attached(now) if now.live.generation() == attached.live.generation() => {
                *state = State::Detached;
                true
            }
            _ => false,
        });
    }

    /// Calls until there is an answer: the server may go away and come back meanwhile. Only for
    /// calls that may be repeated.
    ///
    /// # Errors
    /// What the server answers; with `soft`, `TimedOut` when it doesn't.
    pub async fn call<T, F, Fut>(&self, make: F) -> FsResult<T>
    where
        F: Fn(MetaServiceClient, SessionId) -> Fut,
        Fut: Future<Output = Result<FsResult<T>, RpcError>>,
    {
        match self.timeout {
            None => self.call_hard(make).await,
            Some(limit) => {
                tokio::time::timeout(limit, self.call_hard(make)).await.unwrap_or(Err(FsError::TimedOut))
            }
        }
    }

    async fn call_hard<T, F, Fut>(&self, make: F) -> FsResult<T>
    where
        F: Fn(MetaServiceClient, SessionId) -> Fut,
        Fut: Future<Output = Result<FsResult<T>, RpcError>>,
    {
        loop {
            let attached = self.attached().await?;
            match make(attached.client(), attached.session).await {
                // The call itself failed: whether it happened is unknown, and a fresh start with the
                // server settles what it counts for us.
                Err(error) => {
                    tracing::debug!(%error, "call to the metadata daemon failed");
                    self.broken(&attached);
                }
                Ok(Err(FsError::Evicted)) => {
                    self.broken(&attached);
                    return Err(FsError::Evicted);
                }
                Ok(Err(error)) if error.is_transient() => tokio::time::sleep(REFUSED_PAUSE).await,
                Ok(answer) => return answer,
            }
        }
    }
}
