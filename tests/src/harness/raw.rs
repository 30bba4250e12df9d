//! A mount as the metadata daemon sees it, with nothing behind it: the test chooses what it answers to
//! events, and above all that it does not answer.

use super::cluster::meta_link;
use super::wait::within;
use cairn_common::attr::{Caller, FileKind, Timestamp};
use cairn_common::config::Address;
use cairn_common::error::FsResult;
use cairn_common::ids::{Ino, Seq, SessionId};
use cairn_common::namespace::op::{Create, Op, OpBody, OpResult};
use cairn_common::proto::meta::{AttachReply, AttachRequest, Batch, ClientInfo, Event, MetaStub, OpenState};
use cairn_common::rpc::{Reconnecting, context_within};
use std::time::Duration;
use tarpc::client::RpcError;
use tarpc::context::Context;

/// Deadline of one call.
const CALL: Duration = Duration::from_secs(60);

/// See the module. Nothing runs in the background: it shows a sign of life only when it is told to.
pub struct RawSession {
    link: Reconnecting<MetaStub>,
    pub session: SessionId,
    pub attached: AttachReply,
    next: Seq,
    inos: u64,
}

impl RawSession {
    /// Opens a session.
    pub async fn open(meta: Address) -> RawSession {
        let link = meta_link(meta);
        let attached = attach(&link, None, Vec::new()).await.unwrap();
        let session = attached.session;
        let ask = |client: MetaStub, context| async move { client.allocate_inos(context, session).await };
        let inos = within("inode numbers", link.call(CALL, ask)).await.unwrap();
        RawSession { link, session, next: attached.applied.next(), attached, inos: inos.first.0 }
    }

    /// One call.
    pub async fn ask<T, F>(&self, call: impl FnOnce(MetaStub, Context, SessionId) -> F) -> FsResult<T>
    where
        F: Future<Output = Result<FsResult<T>, RpcError>>,
    {
        let session = self.session;
        let ask = |client, _| call(client, context_within(CALL), session);
        within("a call of a raw session", self.link.call(CALL, ask)).await
    }

    /// Takes the session up again.
    pub async fn attach_again(&self) -> FsResult<AttachReply> {
        attach(&self.link, Some(self.session), Vec::new()).await
    }

    /// A batch of one operation.
    pub async fn op(&mut self, body: OpBody) -> OpResult {
        let op = Op { time: Timestamp { secs: 1_000, nanos: 0 }, caller: Caller::default(), body };
        let batch = Batch { session: self.session, first: self.next, ops: vec![op], sync_follows: false };
        let reply = self.ask(|client, context, _| async move { client.apply(context, batch).await }).await?;
        self.next = self.next.next();
        reply.results.into_iter().next().expect("one result for one operation")
    }

    /// Makes a file in the root, and has it open for writing from then on.
    pub async fn create_open(&mut self, name: &str) -> Ino {
        let ino = Ino(self.inos);
        self.inos += 1;
        let create = Create {
            parent: Ino::ROOT,
            name: name.as_bytes().to_vec().into(),
            ino,
            kind: FileKind::File,
            perm: 0o644,
            umask: 0,
            rdev: 0,
            exclusive: true,
            open: true,
        };
        self.op(OpBody::Create(create)).await.unwrap();
        ino
    }

    /// The events that wait for it. They come again, as none is said to have arrived.
    pub async fn events(&self) -> FsResult<Vec<Event>> {
        self.ask(|client, context, session| async move { client.events(context, session, 0, 0).await }).await
    }
}

async fn attach(
    link: &Reconnecting<MetaStub>,
    session: Option<SessionId>,
    opens: Vec<OpenState>,
) -> FsResult<AttachReply> {
    let client = ClientInfo { mount_point: "raw".into(), ..ClientInfo::default() };
    let request = AttachRequest { session, client, opens };
    let ask = |client: MetaStub, _| async move { client.attach(context_within(CALL), request).await };
    within("attach", link.call(CALL, ask)).await
}
