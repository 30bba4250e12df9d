//! Gives back the space of files that have no names and that nobody has open, in the background and
//! soon: `df` follows within a second or two. Not at once: a program that has found the name of a file just
//! before it was removed or replaced opens it by its number, and must find it as it was.

use super::apply::{Command, Reply};
use super::machine::Machine;
use super::session::{ReapWork, Sessions};
use cairn_common::error::FsResult;
use cairn_common::ids::Ino;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::Instant;

/// Most inodes in one command.
const BATCH: usize = 256;
/// How long a file lives on after its last name and its last close.
pub const GRACE: Duration = Duration::from_secs(1);
/// Most files that wait for that; with more of them, the oldest go earlier.
const WAITING_MAX: usize = 64 << 10;
/// Most orphans read at a time when all are looked at.
const SCAN_PAGE: usize = 1024;
/// How long after the last known session is back unnamed files are looked at.
pub const SCAN_DELAY: Duration = Duration::from_secs(2);
/// Pause after a failed command (a full disk, say).
pub const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Runs until the senders are gone.
pub async fn run(machine: Machine, sessions: Arc<Sessions>, mut work: mpsc::UnboundedReceiver<ReapWork>) {
    let mut items = Vec::with_capacity(BATCH);
    let mut waiting: VecDeque<(Instant, Ino)> = VecDeque::new();
    let mut scan_at: Option<Instant> = None;
    loop {
        let first = waiting.front().map(|(due, _)| *due);
        let full = waiting.len() >= WAITING_MAX;
        tokio::select! {
            received = work.recv_many(&mut items, BATCH), if !full => {
                if received == 0 {
                    return;
                }
                for item in items.drain(..) {
                    match item {
                        ReapWork::Inode(ino) => waiting.push_back((Instant::now() + GRACE, ino)),
                        ReapWork::Scan => retry(|| scan(&machine, &sessions)).await,
                        ReapWork::ScanLater => scan_at = Some(Instant::now() + SCAN_DELAY),
                    }
                }
            }
            () = tokio::time::sleep_until(first.unwrap_or_else(Instant::now)), if first.is_some() && !full => {
                reap(&machine, &sessions, take(&mut waiting, Instant::now())).await;
            }
            () = tokio::time::sleep_until(scan_at.unwrap_or_else(Instant::now)), if scan_at.is_some() => {
                scan_at = None;
                retry(|| scan(&machine, &sessions)).await;
            }
            () = std::future::ready(()), if full => {
                let oldest = waiting.drain(..BATCH).map(|(_, ino)| ino).collect();
                reap(&machine, &sessions, oldest).await;
            }
        }
    }
}

/// A batch of those that are due.
fn take(waiting: &mut VecDeque<(Instant, Ino)>, now: Instant) -> Vec<Ino> {
    let due = waiting.iter().take(BATCH).take_while(|(due, _)| *due <= now).count();
    waiting.drain(..due).map(|(_, ino)| ino).collect()
}

/// Removes those of `inos` that still have no name and are not open.
async fn reap(machine: &Machine, sessions: &Sessions, inos: Vec<Ino>) {
    let mut inos = begin(sessions, inos);
    while !inos.is_empty() {
        match reap_some(machine, sessions, &inos).await {
            Ok(unfinished) => inos = unfinished,
            Err(error) => {
                tracing::debug!(%error, "reap");
                tokio::time::sleep(RETRY_AFTER).await;
            }
        }
    }
}

/// Those of `inos` that still have no name and are not open: from now on nobody can open them.
pub fn begin(sessions: &Sessions, mut inos: Vec<Ino>) -> Vec<Ino> {
    sessions.tell(|leases| inos.retain(|ino| leases.reap_begins(*ino)));
    inos
}

/// Removes what was begun; answers what is not wholly gone yet. On an error nothing is: the same again, later.
pub async fn reap_some(machine: &Machine, sessions: &Sessions, inos: &[Ino]) -> FsResult<Vec<Ino>> {
    let unfinished = match machine.submit(Command::Reap { inos: inos.to_vec() }).await?.reply {
        Reply::Reaped { unfinished } => unfinished,
        _ => Vec::new(),
    };
    sessions.tell(|leases| {
        for ino in inos.iter().filter(|ino| !unfinished.contains(ino)) {
            leases.reaped(*ino);
        }
    });
    Ok(unfinished)
}

/// Tells the lease machine of all orphans; what nobody has open comes back as work.
pub fn scan(machine: &Machine, sessions: &Sessions) -> FsResult<()> {
    let mut after = Ino(0);
    loop {
        let page = machine.read(|snapshot| snapshot.orphans(after, SCAN_PAGE))?;
        sessions.tell(|leases| {
            for ino in &page {
                leases.orphan(*ino);
            }
        });
        match page.last() {
            Some(last) => after = *last,
            None => return Ok(()),
        }
    }
}

async fn retry(mut attempt: impl FnMut() -> FsResult<()>) {
    while let Err(error) = attempt() {
        tracing::debug!(%error, "scan orphans");
        tokio::time::sleep(RETRY_AFTER).await;
    }
}
