//! Ends the sessions of mounts that died on this machine, so that nobody has to wait for them. What a life
//! file proves is told in [`crate::life`].

use super::calls::{CALL_DEADLINE, Calls};
use crate::life::{Dead, LifeFiles};
use cairn_common::error::{FsError, FsResult};
use cairn_common::ids::{ClusterId, SessionId};
use cairn_common::proto::meta::MetaStub;
use cairn_common::rpc::{Live, context_within, fs_error};
use std::sync::Arc;
use std::time::Duration;

/// When it is looked after a life file was closed: its lock goes a moment later.
const LOOKS: [Duration; 3] =
    [Duration::from_millis(10), Duration::from_millis(50), Duration::from_millis(250)];

/// Before a session is opened, which might have to wait for them.
pub async fn end_before(files: &LifeFiles, live: &Live<MetaStub>) {
    let end = |session| async move {
        live.detach(context_within(CALL_DEADLINE), session).await.map_err(|error| fs_error(&error))?
    };
    end_dead(files, live.peer().cluster, end).await;
}

/// As long as this mount lives.
pub async fn end_always(files: LifeFiles, calls: Arc<Calls>, cluster: ClusterId) {
    let Some(mut watch) = files.watch() else { return };
    // The first time for those that died since the session was opened.
    loop {
        for pause in LOOKS {
            tokio::time::sleep(pause).await;
            end_dead(&files, cluster, |session| end_over(&calls, session)).await;
        }
        if let Err(error) = watch.closed().await {
            tracing::debug!(%error, "deaths of other mounts are not seen any more");
            return;
        }
    }
}

/// However long the server is away: nobody else may come by to try again.
async fn end_over(calls: &Calls, session: SessionId) -> FsResult<()> {
    loop {
        let end =
            |client: MetaStub, _| async move { client.detach(context_within(CALL_DEADLINE), session).await };
        match calls.call(end).await {
            Err(FsError::TimedOut) => {}
            answer => return answer,
        }
    }
}

/// Files of sessions that could not be ended stay, for whoever looks next. A session that the server does not
/// know any more counts as ended there.
async fn end_dead<F: Future<Output = FsResult<()>>>(
    files: &LifeFiles,
    cluster: ClusterId,
    end: impl Fn(SessionId) -> F,
) {
    let looking = files.clone();
    let found = tokio::task::spawn_blocking(move || looking.dead(cluster)).await;
    for dead in found.unwrap_or_default() {
        match end(dead.session).await {
            Ok(()) => ended(dead),
            // What keeps one from being ended keeps all.
            Err(error) => {
                return tracing::debug!(%error, session = dead.session.0, "end a dead mount's session");
            }
        }
    }
}

fn ended(dead: Dead) {
    tracing::info!(target: "cairn", "session {} is ended: its mount has died ({})", dead.session, dead.about);
    if let Err(error) = dead.remove() {
        tracing::debug!(%error, "life file not removed");
    }
}
