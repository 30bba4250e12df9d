//! A stub whose calls end when their connection does.

use super::message::WireMessage;
use super::transport::{ClientTransport, WireError};
use crate::pool::PayloadBuffers;
use futures::future::BoxFuture;
use tarpc::client::stub::Stub;
use tarpc::client::{Channel, Config, NewClient, RpcError};
use tarpc::context::Context;
use tarpc::{ChannelError, ClientMessage, RequestName, Response};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

/// The task's half of a connection: moves messages until it breaks.
pub(super) type Dispatch = BoxFuture<'static, Result<(), ChannelError<WireError>>>;

/// What every client's calls go through. Without it, a request that is handed over in the moment in which the
/// connection's task ends would stay in the channel between them: the channel empties itself when its receiver is
/// dropped, but not of what a sender puts into a place that it had reserved before (tokio issue 7714), and its caller
/// would wait for ever.
#[derive(Debug)]
pub struct WireStub<Req, Resp> {
    channel: Channel<Req, Resp>,
    ended: CancellationToken,
}

impl<Req, Resp> Clone for WireStub<Req, Resp> {
    fn clone(&self) -> Self {
        WireStub { channel: self.channel.clone(), ended: self.ended.clone() }
    }
}

impl<Req, Resp> WireStub<Req, Resp>
where
    Req: RequestName + Send + 'static,
    Resp: Send + 'static,
    Response<Resp>: WireMessage,
    ClientMessage<Req>: WireMessage,
{
    /// A stub over `stream`, whose first exchange is done. Who runs the other half cancels `ended` after it.
    pub(super) fn over(
        stream: TcpStream,
        buffers: PayloadBuffers,
        ended: CancellationToken,
    ) -> (WireStub<Req, Resp>, Dispatch) {
        let transport = ClientTransport::new(stream, buffers);
        let NewClient { client: channel, dispatch } = tarpc::client::new(Config::default(), transport);
        (WireStub { channel, ended }, Box::pin(dispatch))
    }
}

impl<Req: RequestName, Resp> Stub for WireStub<Req, Resp> {
    type Req = Req;
    type Resp = Resp;

    async fn call(&self, context: Context, request: Req) -> Result<Resp, RpcError> {
        tokio::select! {
            // An answer that came just before the end counts.
            biased;
            answer = self.channel.call(context, request) => answer,
            () = self.ended.cancelled() => Err(RpcError::Shutdown),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests panic on purpose")]
    use super::*;
    use futures::FutureExt;
    use tarpc::context;

    #[tarpc::service]
    trait Echo {
        async fn ping();
    }

    #[tokio::test]
    async fn a_request_that_no_task_took_ends_with_its_connection() {
        let (transport, _other_end) = tarpc::transport::channel::unbounded();
        // Kept and never run: what is handed over lies in the channel, as what came too late for a task that ended.
        let NewClient { client: channel, dispatch: _kept } = tarpc::client::new(Config::default(), transport);
        let ended = CancellationToken::new();
        let client =
            EchoClient::from(WireStub::<EchoRequest, EchoResponse> { channel, ended: ended.clone() });
        let mut call = Box::pin(client.ping(context::current()));
        assert!((&mut call).now_or_never().is_none(), "nobody answers");
        ended.cancel();
        assert!(matches!(call.now_or_never().unwrap(), Err(RpcError::Shutdown)));
    }
}
