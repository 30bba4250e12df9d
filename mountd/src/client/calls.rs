//! The connection with the metadata daemon, and whether the session is attached over it: what every
//! call to the server goes through.

use super::silence::Silence;
use cairn_common::attr::Timestamp;
use cairn_common::error::{FsError, FsResult};
use cairn_common::ids::{Epoch, SessionId};
use cairn_common::proto::meta::MetaStub;
use cairn_common::rpc::{Live, Reconnecting, fs_error};
use parking_lot::Mutex;
use std::future::Future;
use std::time::{Duration, Instant};
use tarpc::client::RpcError;
use tokio::sync::watch;

/// Longest wait for one answer. The server itself may wait for other mounts to give something back, as long as
/// its recall time-out (5 min by default) lasts: this is longer. A dead connection shows sooner, by the calls for events.
pub const CALL_DEADLINE: Duration = Duration::from_secs(360);
/// Pause before a request is repeated that the server refused for the moment.
const REFUSED_PAUSE: Duration = Duration::from_millis(100);

/// A session that is attached over a living connection.
#[derive(Clone)]
pub struct Attached {
    pub live: Live<MetaStub>,
    pub session: SessionId,
    /// When it was opened, if the server tells.
    pub opened: Option<Timestamp>,
    pub epoch: Epoch,
}

impl Attached {
    /// The stub, for one call.
    #[must_use]
    pub fn client(&self) -> MetaStub {
        MetaStub::clone(&self.live)
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
    pub link: Reconnecting<MetaStub>,
    pub state: watch::Sender<State>,
    /// `soft`: give up after this long.
    timeout: Option<Duration>,
    silence: Mutex<Silence>,
}

impl Calls {
    pub fn new(link: Reconnecting<MetaStub>, timeout: Option<Duration>) -> Calls {
        Calls { link, state: watch::Sender::new(State::Detached), timeout, silence: Mutex::default() }
    }

    /// Work that waits for the server: as long as it takes, or with `soft` until `TimedOut`.
    pub async fn bounded<T>(&self, work: impl Future<Output = FsResult<T>>) -> FsResult<T> {
        let Some(limit) = self.patience() else { return work.await };
        match tokio::time::timeout(limit, work).await {
            Ok(result) => result,
            Err(_elapsed) => {
                self.waited();
                Err(FsError::TimedOut)
            }
        }
    }

    /// `soft`: how long a server may be silent.
    #[must_use]
    pub fn limit(&self) -> Option<Duration> {
        self.timeout
    }

    /// How long somebody who begins to wait may do so. `None`: for ever (`hard`).
    #[must_use]
    pub fn patience(&self) -> Option<Duration> {
        let limit = self.timeout?;
        let connected = matches!(&*self.state.borrow(), State::Attached(_));
        Some(self.silence.lock().wait(Instant::now(), limit, connected))
    }

    /// Somebody has waited in vain.
    pub fn waited(&self) {
        self.silence.lock().waited(Instant::now());
    }

    /// The server has answered something.
    pub fn heard(&self) {
        if self.timeout.is_some() {
            self.silence.lock().heard();
        }
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
        F: Fn(MetaStub, SessionId) -> Fut,
        Fut: Future<Output = Result<FsResult<T>, RpcError>>,
    {
        self.call_attached(|attached: Attached| make(attached.client(), attached.session)).await
    }

    /// The same for calls that differ with what the server speaks.
    ///
    /// # Errors
    /// As above.
    pub async fn call_attached<T, F, Fut>(&self, make: F) -> FsResult<T>
    where
        F: Fn(Attached) -> Fut,
        Fut: Future<Output = Result<FsResult<T>, RpcError>>,
    {
        self.bounded(self.call_hard(make)).await
    }

    /// The call itself failed. An error that says so is an answer about this call, which would be the
    /// same each time: what was asked or answered does not fit a frame, or the server refused it.
    fn failed(&self, attached: &Attached, error: &RpcError) -> FsResult<()> {
        tracing::debug!(%error, "call to the metadata daemon failed");
        match fs_error(error) {
            // Whether it happened is unknown, and a fresh start with the server settles what it counts for us.
            FsError::Unavailable | FsError::TimedOut => {
                self.broken(attached);
                Ok(())
            }
            answer => Err(answer),
        }
    }

    async fn call_hard<T, F, Fut>(&self, make: F) -> FsResult<T>
    where
        F: Fn(Attached) -> Fut,
        Fut: Future<Output = Result<FsResult<T>, RpcError>>,
    {
        loop {
            let attached = self.attached().await?;
            let answer = make(attached.clone()).await;
            if answer.is_ok() {
                self.heard();
            }
            match answer {
                Err(error) => self.failed(&attached, &error)?,
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests panic on purpose")]
    use super::*;
    use bytes::Bytes;
    use cairn_common::config::Address;
    use cairn_common::ids::{ClusterId, Ino};
    use cairn_common::limits::FRAME_HEADER_MAX;
    use cairn_common::proto::meta::{MetaServiceRequest, MetaServiceResponse};
    use cairn_common::rpc::{ConnectOptions, Peer, ServeOptions, context_within, serve};
    use cairn_common::wire::hello::{Identity, ServiceKind};
    use tarpc::server::InFlightRequest;
    use tokio::net::TcpListener;
    use tokio_util::sync::CancellationToken;

    type Request = InFlightRequest<MetaServiceRequest, MetaServiceResponse>;

    /// A server that answers each `getxattr` with the name that was asked for, so many times over.
    async fn repeating_server(times: usize, shutdown: CancellationToken) -> Address {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string().parse().unwrap();
        let identity = Identity::new(ServiceKind::Meta, ClusterId(1), "test server");
        let handle = move |request: Request| async move {
            let answer = tarpc::server::serve(move |_, asked| async move {
                match asked {
                    MetaServiceRequest::Getxattr { name, .. } => {
                        Ok(MetaServiceResponse::Getxattr(Ok(name.repeat(times).into())))
                    }
                    other => panic!("not asked here: {other:?}"),
                }
            });
            request.execute(answer).await;
        };
        tokio::spawn(serve(listener, ServeOptions::new(identity), shutdown, move |_: Peer| handle));
        address
    }

    async fn getxattr(calls: &Calls, name_len: usize) -> FsResult<Bytes> {
        let name = Bytes::from(vec![b'x'; name_len]);
        let ask = |client: MetaStub, id| {
            let name = name.clone();
            async move { client.getxattr(context_within(CALL_DEADLINE), id, Ino::ROOT, name).await }
        };
        calls.call(ask).await
    }

    #[tokio::test]
    async fn what_does_not_fit_a_frame_is_an_error_of_its_call_and_the_session_lives() {
        let shutdown = CancellationToken::new();
        let address = repeating_server(2, shutdown.clone()).await;
        let identity = Identity::new(ServiceKind::Meta, ClusterId(1), "test client");
        let options = ConnectOptions::new(vec![address], 0, identity);
        let link = Reconnecting::new(options, MetaStub::from);
        let calls = Calls::new(link, Some(Duration::from_secs(20)));
        let live = calls.link.get().await.unwrap();
        let attached = Attached { live, session: SessionId(1), opened: None, epoch: Epoch(1) };
        calls.state.send_replace(State::Attached(attached));

        assert_eq!(getxattr(&calls, FRAME_HEADER_MAX / 2).await, Err(FsError::Io), "answer too large");
        assert_eq!(getxattr(&calls, FRAME_HEADER_MAX).await, Err(FsError::TooBig), "request too large");
        assert_eq!(getxattr(&calls, 3).await.unwrap().len(), 6);
        assert!(matches!(&*calls.state.borrow(), State::Attached(_)));
        assert_eq!(calls.link.get().await.unwrap().generation(), 1);
        assert_eq!(calls.patience(), Some(Duration::from_secs(20)), "the server is heard");
        shutdown.cancel();
    }

    #[tokio::test]
    async fn a_soft_call_has_an_end_and_a_hard_one_has_none() {
        let limit = Duration::from_millis(50);
        for (timeout, longest) in [(Some(limit), 400 * limit), (None, 4 * limit)] {
            // Nobody takes the session up.
            let identity = Identity::new(ServiceKind::Meta, ClusterId(1), "test client");
            let options = ConnectOptions::new(vec!["127.0.0.1:1".parse().unwrap()], 0, identity);
            let calls = Calls::new(Reconnecting::new(options, MetaStub::from), timeout);
            let begun = Instant::now();
            let answer = tokio::time::timeout(longest, getxattr(&calls, 3)).await.ok();
            assert_eq!(answer, timeout.map(|_| Err(FsError::TimedOut)));
            assert!(begun.elapsed() >= limit);
            // Once there never will be one, it is told at once.
            calls.state.send_replace(State::Ended);
            assert_eq!(getxattr(&calls, 3).await, Err(FsError::Evicted));
        }
    }
}
