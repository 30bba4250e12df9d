//! Sessions come and go: attach, detach, eviction, and the end of the wait after a restart.

use super::{Meta, first_session, whose};
use crate::meta::apply::{Command, Reply};
use crate::meta::lease::Attached;
use cairn_common::attr::Timestamp;
use cairn_common::error::{FsError, FsResult};
use cairn_common::ids::SessionId;
use cairn_common::limits::{NAME_MAX, OPENS_MAX};
use cairn_common::proto::meta::{AttachReply, AttachRequest, ClientInfo, InoRange, SessionKey, TakenUp};
use cairn_common::rpc::detached;
use std::sync::Arc;

/// Longest mount point that is kept for `cairn status` (as PATH_MAX).
const MOUNT_POINT_MAX: usize = 4096;

/// [`take_up`], as it was before version 5 of the protocol.
pub async fn attach(meta: Arc<Meta>, connection: u64, request: AttachRequest) -> FsResult<AttachReply> {
    Ok(take_up(meta, connection, request, None).await?.reply)
}

/// Opens a session, or takes one up again.
pub async fn take_up(
    meta: Arc<Meta>,
    connection: u64,
    request: AttachRequest,
    opened: Option<Timestamp>,
) -> FsResult<TakenUp> {
    check_client(&request.client)?;
    if request.opens.len() > OPENS_MAX {
        return Err(FsError::TooBig);
    }
    let (session, attached) = match request.session {
        Some(session) => (session, attach_again(&meta, connection, session, request, opened)?),
        None => open_session(&meta, connection, request.client).await?,
    };
    reply(&meta, session, attached)
}

/// Only by who opened it: tables that were restored from an old copy may have a session that is not the one of before.
fn attach_again(
    meta: &Meta,
    connection: u64,
    session: SessionId,
    request: AttachRequest,
    opened: Option<Timestamp>,
) -> FsResult<Attached> {
    let info = meta.machine.session(session).ok_or(FsError::Evicted)?;
    if let Err(other) = whose::is_meant(&info, &request.client, opened) {
        tracing::warn!(
            target: "cairn",
            "session {session} is {other}: {} at {} starts anew", request.client.host, request.client.mount_point
        );
        return Err(FsError::Evicted);
    }
    meta.sessions.attach_again(session, connection, request.client, &request.opens)
}

fn check_client(client: &ClientInfo) -> FsResult<()> {
    let fits = client.host.len() <= NAME_MAX
        && client.version.len() <= NAME_MAX
        && client.mount_point.len() <= MOUNT_POINT_MAX;
    if fits { Ok(()) } else { Err(FsError::TooBig) }
}

async fn open_session(
    meta: &Arc<Meta>,
    connection: u64,
    client: ClientInfo,
) -> FsResult<(SessionId, Attached)> {
    meta.sessions.recovered().await;
    // Before the session exists: if the caller goes away while this waits, nothing is left of it.
    let attaching = meta.sessions.attaching().await;
    let meta = meta.clone();
    detached(async move {
        let command = Command::OpenSessionFrom {
            client: client.clone(),
            time: meta.sessions.clock().now(),
            least: first_session(meta.machine.epoch(), meta.incarnation),
        };
        let session = match meta.machine.submit(command).await?.reply {
            Reply::Session(session) => session,
            _ => return Err(FsError::Io),
        };
        tracing::info!(target: "cairn", "session {session}: {} mounts {}", client.host, client.mount_point);
        Ok((session, meta.sessions.attach(attaching, session, connection, client)))
    })
    .await
}

fn reply(meta: &Meta, session: SessionId, attached: Attached) -> FsResult<TakenUp> {
    let info = meta.machine.session(session).ok_or(FsError::Evicted)?;
    let timeout = meta.sessions.times().timeout;
    let reply = AttachReply {
        session,
        cluster: meta.machine.cluster(),
        epoch: meta.machine.epoch(),
        applied: info.applied,
        durable: info.durable,
        time: meta.sessions.clock().now(),
        session_timeout_ms: u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX),
        sole: attached.sole,
        generation: attached.generation,
    };
    Ok(TakenUp { reply, opened: info.opened, incarnation: meta.incarnation })
}

/// Ends the session that is meant, and no other of its number: then it is over as it is.
pub async fn end_keyed(meta: Arc<Meta>, key: SessionKey) -> FsResult<()> {
    // A number has one session for good while the daemon runs, so it can't become another one after this look.
    if meta.machine.session(key.session).is_some_and(|info| !whose::is_same(&info, key.opened)) {
        tracing::info!(target: "cairn", "session {} is not the one that is said to be over: it goes on", key.session);
        return Ok(());
    }
    end(meta, key.session).await
}

/// Ends a session, durably with all that it sent before. A session that is gone already is no error:
/// the answer to the first call may have been lost.
pub async fn end(meta: Arc<Meta>, session: SessionId) -> FsResult<()> {
    if !meta.sessions.refuse(session) {
        if meta.sessions.is_ending(session) {
            // Another asks for the same, and its entry may not be durable yet: behind this one it is.
            meta.machine.submit(Command::EndSession { session }).await?;
        }
        return Ok(());
    }
    if let Err(error) = meta.machine.submit(Command::EndSession { session }).await {
        meta.sessions.unrefuse(session);
        return Err(error);
    }
    // Only now: who waits for this session may go on, and who stays may be told that it is alone.
    meta.sessions.end(session);
    Ok(())
}

/// A range of inode numbers; one whose answer is lost stays unused.
pub async fn allocate_inos(meta: &Meta, session: SessionId) -> FsResult<InoRange> {
    meta.sessions.enter(session, |_| ())?;
    match meta.machine.submit(Command::AllocateInos { session }).await?.reply {
        Reply::Inos(range) => Ok(range),
        _ => Err(FsError::Io),
    }
}

/// Ends the wait for known sessions when the grace is over.
pub async fn end_grace(meta: Arc<Meta>) {
    let times = meta.sessions.times();
    let grace = times.grace.min(times.timeout);
    if tokio::time::timeout(grace, meta.sessions.recovered()).await.is_err() {
        let absent = meta.sessions.tell(|leases| leases.absent());
        tracing::warn!(target: "cairn", "{absent} sessions have not come back within {grace:?}: going on without");
        meta.sessions.end_recovery();
    }
}

/// Evicts sessions that have been silent, or have not acknowledged, for too long. Sleeps while there
/// are none.
pub async fn evict_silent(meta: Arc<Meta>) {
    loop {
        let (expired, next) = meta.sessions.expired();
        for (session, reason) in expired {
            tracing::warn!(target: "cairn", "session {session} evicted: {reason}");
            if let Err(error) = end(meta.clone(), session).await {
                tracing::warn!(%session, %error, "evict session");
            }
        }
        meta.sessions.sweep_after(next).await;
    }
}
