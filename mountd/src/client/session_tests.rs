//! The session against a server that the test answers for.
#![allow(clippy::unwrap_used, reason = "tests panic on purpose")]

use super::*;
use cairn_common::ids::ClusterId;
use cairn_common::namespace::op::OpReply;
use cairn_common::proto::meta::{BatchReply, MetaServiceRequest as Asked, MetaServiceResponse as Answer};
use cairn_common::rpc::{ConnectOptions, Peer, ServeOptions, serve};
use cairn_common::wire::hello::{Identity, ServiceKind};
use std::future::pending;
use tarpc::server::InFlightRequest;
use tokio::net::TcpListener;

/// Ends each session with its connection, and never answers a `sync` of the first one.
#[derive(Default)]
struct Forgetful {
    sessions: AtomicU64,
    sync_asked: Notify,
}

impl Forgetful {
    fn attach(&self, request: &AttachRequest) -> FsResult<AttachReply> {
        if request.session.is_some() {
            return Err(FsError::Evicted);
        }
        Ok(AttachReply {
            session: SessionId(self.sessions.fetch_add(1, Ordering::SeqCst) + 1),
            cluster: ClusterId(1),
            epoch: Epoch(1),
            applied: Seq(0),
            durable: Seq(0),
            time: Timestamp::default(),
            session_timeout_ms: 30_000,
            sole: false,
            generation: 1,
        })
    }

    async fn answer(&self, asked: Asked) -> Answer {
        match asked {
            Asked::Attach { request } => Answer::Attach(self.attach(&request)),
            Asked::Apply { batch } => {
                let results = batch.ops.iter().map(|_| Ok(OpReply::Done)).collect();
                Answer::Apply(Ok(BatchReply { results, durable: Seq(0) }))
            }
            Asked::Sync { session: SessionId(1), .. } => {
                self.sync_asked.notify_one();
                pending().await
            }
            Asked::Sync { through, .. } => Answer::Sync(Ok(through)),
            _ => pending().await,
        }
    }
}

struct NoSink;

impl EventSink for NoSink {
    async fn flush(&self, _: Vec<Ino>) {}
    async fn uncache(&self, _: Ino, _: u64) {}
    async fn invalidate(&self, _: Ino) {}
    fn lock_released(&self, _: Ino) {}
    async fn shared(&self, _: u64) {}
    async fn hand_over_locks(&self) {}
    fn sole(&self, _: u64) {}
    fn open_states(&self) -> Vec<OpenState> {
        Vec::new()
    }
    fn evicted(&self) {}
}

async fn session_with(server: Arc<Forgetful>, shutdown: CancellationToken) -> Arc<Session> {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string().parse().unwrap();
    let handle = move |request: InFlightRequest<Asked, Answer>| {
        let server = Arc::clone(&server);
        async move {
            let answer = tarpc::server::serve(move |_, asked| async move { Ok(server.answer(asked).await) });
            request.execute(answer).await;
        }
    };
    let identity = Identity::new(ServiceKind::Meta, ClusterId(1), "test server");
    tokio::spawn(serve(listener, ServeOptions::new(identity), shutdown, move |_: Peer| handle.clone()));
    let identity = Identity::new(ServiceKind::Meta, ClusterId(1), "test client");
    let link = Reconnecting::new(ConnectOptions::new(vec![address], 0, identity), |transport| {
        MetaServiceClient::new(tarpc::client::Config::default(), transport)
    });
    let session = Session::open(link, ClientInfo::default(), None, Duration::from_secs(20)).await.unwrap();
    session.start(Arc::new(NoSink));
    session
}

/// What was to be synced is lost, whatever the next session with its own numbers has made durable.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sync_does_not_outlive_its_session() {
    let (server, shutdown) = (Arc::new(Forgetful::default()), CancellationToken::new());
    let session = session_with(Arc::clone(&server), shutdown.clone()).await;
    let body = OpBody::RemoveXattr { ino: Ino(2), name: "user.a".into() };
    session.submit(&Caller::default(), body).await.unwrap();
    let syncing = tokio::spawn({
        let session = Arc::clone(&session);
        async move { session.sync(Seq(1)).await }
    });
    server.sync_asked.notified().await;
    let attached = session.calls.attached().await.unwrap();
    session.calls.broken(&attached);
    let synced = tokio::time::timeout(Duration::from_secs(20), syncing).await.unwrap().unwrap();
    assert_eq!(synced, Err(FsError::Evicted));
    assert_eq!(session.session(), SessionId(2));
    shutdown.cancel();
}
