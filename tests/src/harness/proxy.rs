//! A network between a mount and a daemon: forwards bytes, and on purpose cuts connections in the
//! middle of a message, or goes silent, in one direction or both.

use super::cluster::own_address;
use super::wait::random;
use cairn_common::config::Address;
use rand::Rng;
use rand::rngs::StdRng;
use std::ops::Range;
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Bytes forwarded at a time.
const CHUNK: usize = 16 << 10;

/// What is held back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Silence {
    /// What clients send.
    pub requests: bool,
    /// What the target sends.
    pub answers: bool,
}

/// Whether one direction is held back.
type IsSilent = fn(Silence) -> bool;

struct Shared {
    /// How many bytes of one direction a connection forwards before it is cut; `None`: it lives on.
    budget: Mutex<Option<(StdRng, Range<u64>)>>,
    cuts: watch::Sender<u64>,
    silence: watch::Sender<Silence>,
    /// Counts how often all connections were cut at once.
    drops: watch::Sender<u64>,
}

/// See the module. Forwards nothing any more when dropped.
pub struct Proxy {
    address: Address,
    shared: Arc<Shared>,
    accepting: JoinHandle<()>,
    closed: CancellationToken,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
        self.closed.cancel();
    }
}

impl Proxy {
    /// Forwards to `target`.
    pub async fn new(target: Address) -> Proxy {
        let listener = TcpListener::bind(own_address().with_default_port(0)).await.unwrap();
        let address = listener.local_addr().unwrap().into();
        let shared = Arc::new(Shared {
            budget: Mutex::new(None),
            cuts: watch::Sender::new(0),
            silence: watch::Sender::default(),
            drops: watch::Sender::new(0),
        });
        let closed = CancellationToken::new();
        let accepting = tokio::spawn(accept(listener, target, Arc::clone(&shared), closed.clone()));
        Proxy { address, shared, accepting, closed }
    }

    /// Where to connect to.
    pub fn address(&self) -> Address {
        self.address.clone()
    }

    /// From now on, connections are cut after so many bytes, drawn anew for each direction.
    pub fn cut_after(&self, seed: u64, bytes: Range<u64>) {
        *self.shared.budget.lock().unwrap() = Some((random(seed), bytes));
    }

    /// Connections live on again.
    pub fn mend(&self) {
        *self.shared.budget.lock().unwrap() = None;
    }

    /// How many connections were cut.
    pub fn cuts(&self) -> u64 {
        *self.shared.cuts.borrow()
    }

    /// Connections stay, new ones are taken, and what is silent does not get through.
    pub fn silence(&self, silence: Silence) {
        self.shared.silence.send_replace(silence);
    }

    /// Cuts all connections, with what was on its way.
    pub fn cut_all(&self) {
        self.shared.drops.send_modify(|drops| *drops += 1);
    }
}

impl Silence {
    /// Nothing gets through.
    pub const BOTH: Silence = Silence { requests: true, answers: true };
    /// Everything does.
    pub const NONE: Silence = Silence { requests: false, answers: false };
}

async fn accept(listener: TcpListener, target: Address, shared: Arc<Shared>, closed: CancellationToken) {
    while let Ok((client, _)) = listener.accept().await {
        // While the target is down, the client sees its connection closed.
        let Ok(server) = TcpStream::connect(target.with_default_port(0)).await else { continue };
        for socket in [&client, &server] {
            socket.set_nodelay(true).unwrap();
        }
        let (from_client, to_client) = client.into_split();
        let (from_server, to_server) = server.into_split();
        let cut = closed.child_token();
        let directions: [(_, _, IsSilent); 2] = [
            (from_client, to_server, |silence| silence.requests),
            (from_server, to_client, |silence| silence.answers),
        ];
        for (from, to, is_silent) in directions {
            let (shared, cut) = (Arc::clone(&shared), cut.clone());
            let mut drops = shared.drops.subscribe();
            tokio::spawn(async move {
                tokio::select! {
                    () = cut.cancelled() => {}
                    // An error: the proxy is gone.
                    _ = drops.changed() => {}
                    () = forward(from, to, &shared, is_silent) => {}
                }
                // One direction ended: the other ends with it.
                cut.cancel();
            });
        }
    }
}

async fn forward(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, shared: &Shared, is_silent: IsSilent) {
    let mut silence = shared.silence.subscribe();
    let mut buffer = vec![0; CHUNK];
    let mut budget = None;
    loop {
        let Ok(length) = from.read(&mut buffer).await else { return };
        if length == 0 || silence.wait_for(|silence| !is_silent(*silence)).await.is_err() {
            return;
        }
        budget = (shared.budget.lock().unwrap().as_mut())
            .map(|(rng, range)| budget.unwrap_or_else(|| rng.random_range(range.clone())));
        let most = budget.map_or(length, |bytes| length.min(usize::try_from(bytes).unwrap_or(usize::MAX)));
        if to.write_all(&buffer[..most]).await.is_err() {
            return;
        }
        if let Some(bytes) = &mut budget {
            *bytes -= most as u64;
            if *bytes == 0 {
                shared.cuts.send_modify(|cuts| *cuts += 1);
                return;
            }
        }
    }
}
