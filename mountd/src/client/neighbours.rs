//! Ends the sessions of mounts that died on this machine, so that nobody has to wait for them. What a life
//! file proves is told in [`crate::life`].

use super::calls::{Attached, Calls};
use super::keyed;
use crate::life::{Dead, LifeFiles};
use cairn_common::attr::Timestamp;
use cairn_common::error::{FsError, FsResult};
use cairn_common::ids::{ClusterId, SessionId};
use cairn_common::proto::meta::MetaStub;
use cairn_common::rpc::{Live, fs_error};
use std::sync::Arc;
use std::time::Duration;

/// When it is looked after a life file was closed: its lock goes a moment later.
const LOOKS: [Duration; 3] =
    [Duration::from_millis(10), Duration::from_millis(50), Duration::from_millis(250)];

/// Before a session is opened, which might have to wait for them.
pub async fn end_before(files: &LifeFiles, live: &Live<MetaStub>) {
    let end = |session, opened| async move {
        keyed::end(live, session, opened).await.map_err(|error| fs_error(&error))?
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
            end_dead(&files, cluster, |session, opened| end_over(&calls, session, opened)).await;
        }
        if let Err(error) = watch.closed().await {
            tracing::debug!(%error, "deaths of other mounts are not seen any more");
            return;
        }
    }
}

/// However long the server is away: nobody else may come by to try again.
async fn end_over(calls: &Calls, session: SessionId, opened: Option<Timestamp>) -> FsResult<()> {
    loop {
        let end = |own: Attached| async move { keyed::end(&own.live, session, opened).await };
        match calls.call_attached(end).await {
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
    end: impl Fn(SessionId, Option<Timestamp>) -> F,
) {
    let looking = files.clone();
    let found = tokio::task::spawn_blocking(move || looking.dead(cluster)).await;
    for dead in found.unwrap_or_default() {
        match end(dead.session, dead.opened).await {
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
