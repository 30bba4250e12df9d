//! Several connections to one server, for bulk data: one task serves a connection, so several keep
//! several cores busy and large messages don't wait behind each other.

use super::connect::{ConnectOptions, LinkState, Live, Reconnecting};
use super::message::WireMessage;
use super::stub::WireStub;
use crate::error::FsResult;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tarpc::client::RpcError;
use tarpc::context::Context;
use tarpc::{ClientMessage, RequestName, Response};

/// Connections used in turn. Cloning shares them.
#[derive(Debug)]
pub struct Pool<C> {
    clients: Arc<[Reconnecting<C>]>,
    next: Arc<AtomicUsize>,
}

impl<C> Clone for Pool<C> {
    fn clone(&self) -> Self {
        Pool { clients: self.clients.clone(), next: self.next.clone() }
    }
}

impl<C: Clone + Send + Sync + 'static> Pool<C> {
    /// `count` connections (at least one), each made when its turn first comes.
    pub fn new<Req, Resp, Make>(count: usize, options: &ConnectOptions, make: Make) -> Pool<C>
    where
        Req: RequestName + Send + 'static,
        Resp: Send + 'static,
        Response<Resp>: WireMessage,
        ClientMessage<Req>: WireMessage,
        Make: Fn(WireStub<Req, Resp>) -> C + Clone + Send + Sync + 'static,
    {
        let clients = (0..count.max(1)).map(|_| Reconnecting::new(options.clone(), make.clone())).collect();
        Pool { clients, next: Arc::new(AtomicUsize::new(0)) }
    }

    /// The connection whose turn it is.
    #[must_use]
    pub fn next(&self) -> &Reconnecting<C> {
        let turn = self.next.fetch_add(1, Ordering::Relaxed);
        &self.clients[turn % self.clients.len()]
    }

    /// A live stub of the connection whose turn it is; see [`Reconnecting::get_within`].
    pub async fn get_within(&self, limit: Duration) -> FsResult<Live<C>> {
        self.next().get_within(limit).await
    }

    /// One call on the connection whose turn it is; see [`Reconnecting::call`].
    pub async fn call<T, Calling>(
        &self,
        limit: Duration,
        call: impl FnOnce(C, Context) -> Calling,
    ) -> FsResult<T>
    where
        Calling: Future<Output = Result<FsResult<T>, RpcError>>,
    {
        self.next().call(limit, call).await
    }

    /// What each connection does.
    #[must_use]
    pub fn states(&self) -> Vec<LinkState> {
        self.clients.iter().map(Reconnecting::state).collect()
    }
}
