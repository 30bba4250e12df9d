//! Peers that are wrong, silent, slow or send garbage: a clear error, bounded memory, nothing hangs.

use crate::support::{EchoRequest, EchoResponse, Server, connect, connect_with, options, ping, until};
use bytes::Bytes;
use cairn_common::error::FsError;
use cairn_common::ids::ClusterId;
use cairn_common::pool::PayloadBuffers;
use cairn_common::rpc::handshake::{HandshakeError, exchange};
use cairn_common::rpc::transport::{Patience, QUEUED_MAX};
use cairn_common::rpc::{ClientTransport, ServeOptions, context_within};
use cairn_common::wire::Payload;
use cairn_common::wire::frame::{FrameKind, fixed_part};
use cairn_common::wire::hello::{Identity, Mismatch, ServiceKind};
use futures::{Sink, SinkExt, StreamExt};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::{Duration, Instant};
use tarpc::{ClientMessage, Request};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const LIMIT: Duration = Duration::from_secs(10);

async fn hello(
    address: SocketAddr,
    service: ServiceKind,
    cluster: u128,
) -> Result<TcpStream, HandshakeError> {
    let mut stream = TcpStream::connect(address).await.unwrap();
    exchange(&mut stream, address, &Identity::new(service, ClusterId(cluster), "raw")).await?;
    Ok(stream)
}

/// Waits for the server to close the connection.
async fn closed(stream: &mut TcpStream) {
    let mut rest = Vec::new();
    let end = tokio::time::timeout(LIMIT, stream.read_to_end(&mut rest)).await;
    // A reset is as good as an end.
    let _ = end.expect("the server closes the connection");
}

fn request(id: u64, message: EchoRequest) -> ClientMessage<EchoRequest> {
    ClientMessage::Request(Request { context: context_within(LIMIT), id, message })
}

#[tokio::test]
async fn another_cluster_or_service_is_refused_with_wrong_peer() {
    let server = Server::start(|_| ()).await;
    let client = connect_with(options(server.address, 8));
    let begin = Instant::now();
    assert_eq!(ping(&client).await, Err(FsError::WrongPeer));
    assert!(begin.elapsed() < Duration::from_secs(2), "at once, not at the deadline");
    let error = hello(server.address, ServiceKind::Meta, 7).await.unwrap_err();
    assert!(matches!(error, HandshakeError::Mismatch(Mismatch::Service { .. })), "{error}");
    assert_eq!(ping(&connect(server.address)).await, Ok(()));
    server.stop().await;
}

#[tokio::test]
async fn a_client_stays_with_the_cluster_it_first_met() {
    let server = Server::start(|_| ()).await;
    let address = server.address;
    let client = connect_with(options(address, 0));
    assert_eq!(ping(&client).await, Ok(()));
    server.stop().await;
    let other = Identity::new(ServiceKind::Data, ClusterId(9), "another cluster");
    let server = Server::start_at(address, |options| options.identity = other).await;
    until_err(&client, FsError::WrongPeer).await;
    server.stop().await;
}

async fn until_err(client: &cairn_common::rpc::Reconnecting<crate::support::EchoCalls>, expected: FsError) {
    let end = Instant::now() + LIMIT;
    while ping(client).await != Err(expected) {
        assert!(Instant::now() < end, "never {expected:?}");
    }
}

#[tokio::test]
async fn a_peer_that_is_no_cairn_is_wrong_and_a_silent_one_is_unavailable() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let http = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n").await.unwrap();
        closed(&mut stream).await;
        listener
    });
    assert_eq!(ping(&connect(address)).await, Err(FsError::WrongPeer));
    let _silent = http.await.unwrap();
    let mut options = options(address, 7);
    options.connect_timeout = Duration::from_millis(50);
    let client = connect_with(options);
    let begin = Instant::now();
    let answer = client.get_within(Duration::from_millis(300)).await;
    assert_eq!(answer.err(), Some(FsError::Unavailable));
    assert!(begin.elapsed() < Duration::from_secs(3));
}

#[tokio::test]
async fn garbage_and_half_frames_end_their_connection_only() {
    let server = Server::start(|_| ()).await;
    let good = connect(server.address);
    assert_eq!(ping(&good).await, Ok(()));
    let mut oversized = fixed_part(FrameKind::Message, b"", 0).unwrap();
    oversized[8..12].copy_from_slice(&u32::MAX.to_be_bytes());
    let mut damaged = fixed_part(FrameKind::Message, b"xxxx", 0).unwrap().to_vec();
    damaged.extend(b"xxxy");
    let mut unknown = fixed_part(FrameKind::Message, &[9, 9, 9], 0).unwrap().to_vec();
    unknown.extend([9, 9, 9]);
    for bytes in [&b"GET / HTTP/1.1\r\n\r\n and more"[..], &oversized, &damaged, &unknown] {
        let mut before_hello = TcpStream::connect(server.address).await.unwrap();
        before_hello.write_all(bytes).await.unwrap();
        closed(&mut before_hello).await;
        let mut after_hello = hello(server.address, ServiceKind::Data, 7).await.unwrap();
        after_hello.write_all(bytes).await.unwrap();
        closed(&mut after_hello).await;
    }
    // Half a frame, then the end of the stream.
    let whole = fixed_part(FrameKind::Message, &[0; 50], 1000).unwrap();
    for len in [1, whole.len()] {
        let mut stream = hello(server.address, ServiceKind::Data, 7).await.unwrap();
        stream.write_all(&whole[..len]).await.unwrap();
        stream.shutdown().await.unwrap();
        closed(&mut stream).await;
    }
    assert_eq!(ping(&good).await, Ok(()));
    assert_eq!(good.get_within(LIMIT).await.unwrap().generation(), 1, "others did not notice");
    server.stop().await;
}

#[tokio::test]
async fn connections_beyond_the_limit_are_closed() {
    let server = Server::start(|options| options.max_connections = 2).await;
    let first = hello(server.address, ServiceKind::Data, 7).await.unwrap();
    let _second = hello(server.address, ServiceKind::Data, 7).await.unwrap();
    assert!(hello(server.address, ServiceKind::Data, 7).await.is_err());
    drop(first);
    let client = connect(server.address);
    assert_eq!(ping(&client).await, Ok(()), "a place is free again");
    server.stop().await;
}

#[tokio::test]
async fn who_asks_nothing_gives_its_place_to_others() {
    let server = Server::start(|options| options.first_request = Duration::from_millis(200)).await;
    let asking = connect(server.address);
    assert_eq!(ping(&asking).await, Ok(()));
    let mut silent = hello(server.address, ServiceKind::Data, 7).await.unwrap();
    closed(&mut silent).await;
    assert_eq!(ping(&asking).await, Ok(()));
    assert_eq!(
        asking.get_within(LIMIT).await.unwrap().generation(),
        1,
        "it has asked before, and may be idle"
    );
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_does_not_read_costs_bounded_memory() {
    const IN_FLIGHT: usize = 4;
    const CALLS: u64 = 300;
    let server = Server::start(|options| {
        options.in_flight = IN_FLIGHT;
        options.queued = QUEUED_MAX;
    })
    .await;
    let mut transport = asks_and_never_reads(&server, CALLS, 4 << 20).await;
    let settled = replies_made(&server, IN_FLIGHT).await;
    // Running, waiting for the task, queued by bytes, and what the kernel's socket buffers hold.
    assert!(settled <= IN_FLIGHT + 1 + 2 + 6, "{settled} replies of 4 MiB are made for nobody");
    for _ in 0..CALLS {
        let reply = tokio::time::timeout(LIMIT, transport.next()).await.unwrap().unwrap().unwrap();
        let Ok(EchoResponse::Produce(Ok(payload))) = reply.message else { panic!("wrong reply") };
        assert_eq!(payload.len(), 4 << 20);
    }
    assert!(server.counters.most_running.load(Ordering::SeqCst) <= IN_FLIGHT);
    drop(transport);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replies_wait_for_a_reader_up_to_the_bytes_of_the_service() {
    const IN_FLIGHT: usize = 4;
    let mut made = Vec::new();
    for queued in [1 << 20, 17 << 20] {
        let server = Server::start(|options| {
            options.in_flight = IN_FLIGHT;
            options.queued = queued;
        })
        .await;
        let transport = asks_and_never_reads(&server, 100, 1 << 20).await;
        made.push(replies_made(&server, IN_FLIGHT).await);
        drop(transport);
        server.stop().await;
    }
    // What the kernel's socket buffers hold is not the same each time.
    assert!(made[0] + 12 <= made[1], "{made:?} replies of 1 MiB");
}

/// A connection over which `calls` ask for so many bytes each.
async fn asks_and_never_reads(
    server: &Server,
    calls: u64,
    len: u64,
) -> ClientTransport<EchoRequest, EchoResponse> {
    let stream = hello(server.address, ServiceKind::Data, 7).await.unwrap();
    let mut transport = ClientTransport::new(stream, PayloadBuffers::new());
    for id in 0..calls {
        transport.feed(request(id, EchoRequest::Produce { len })).await.unwrap();
    }
    transport.flush().await.unwrap();
    transport
}

/// How many replies the server makes for somebody who reads none, `begun` at least.
async fn replies_made(server: &Server, begun: usize) -> usize {
    let started = || server.counters.started.load(Ordering::SeqCst);
    until("the server begins", || started() >= begun).await;
    settle(started).await
}

/// Waits until `value` stands still for a while.
async fn settle(value: impl Fn() -> usize) -> usize {
    let (mut last, mut still) = (value(), 0);
    while still < 20 {
        tokio::time::sleep(Duration::from_millis(10)).await;
        let now = value();
        still = if now == last { still + 1 } else { 0 };
        last = now;
    }
    last
}

#[tokio::test]
async fn a_sender_is_held_back_by_bytes() {
    held_back(QUEUED_MAX).await;
    held_back(QUEUED_MAX / 4).await;
}

async fn held_back(bound: usize) {
    let (near, mut far) = tokio::io::duplex(1 << 16);
    let transport: ClientTransport<EchoRequest, EchoResponse, _> =
        ClientTransport::new(near, PayloadBuffers::new());
    let mut transport = transport.queueing(bound);
    let payload = Bytes::from(vec![3; 1 << 20]);
    let mut sent = 0;
    let taken = std::future::poll_fn(|context| {
        while let Poll::Ready(ready) = Pin::new(&mut transport).poll_ready(context) {
            ready.unwrap();
            sent += 1;
            assert!(sent < 100, "nothing holds the sender back");
            let message = EchoRequest::Echo { number: 1, payload: Payload::from(payload.clone()) };
            Pin::new(&mut transport).start_send(request(sent, message)).unwrap();
        }
        Poll::Ready(transport.queued())
    })
    .await;
    assert!((bound..bound + (1 << 20) + 100).contains(&taken), "{taken} bytes queued");
    // Reading makes room again, before everything is read.
    let reader = tokio::spawn(async move { tokio::io::copy(&mut far, &mut tokio::io::sink()).await });
    tokio::time::timeout(LIMIT, std::future::poll_fn(|context| Pin::new(&mut transport).poll_ready(context)))
        .await
        .unwrap()
        .unwrap();
    assert!(transport.queued() < bound && transport.queued() > 0);
    reader.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_connections_hold_no_payload_buffers() {
    let buffers = PayloadBuffers::new();
    let used = buffers.clone();
    let server = Server::start(|options| options.buffers = used).await;
    let clients: Vec<_> = (0..50).map(|_| connect(server.address)).collect();
    for client in &clients {
        assert_eq!(ping(client).await, Ok(()));
    }
    // All came through one read buffer, two if they overlapped on two threads.
    until("buffers return", || buffers.free_bytes() > 0).await;
    assert!(buffers.free_bytes() <= 2 * (64 << 10), "{}", buffers.free_bytes());
    server.stop().await;
}

/// The fixed part, header and half of the payload of a frame: the other half never comes.
fn half_a_frame(payload: usize) -> Vec<u8> {
    let fixed = fixed_part(FrameKind::Message, b"header", payload).unwrap();
    [&fixed[..], b"header", &vec![1; payload / 2]].concat()
}

fn patience(longest: Duration, pressed: Duration) -> impl FnOnce(&mut ServeOptions) {
    move |options| options.frame_time = Patience { longest, pressed }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_a_frame_is_not_waited_for_for_ever() {
    let server = Server::start(patience(Duration::from_millis(300), Duration::from_millis(100))).await;
    let mut half = hello(server.address, ServiceKind::Data, 7).await.unwrap();
    let begin = Instant::now();
    half.write_all(&half_a_frame(1 << 20)).await.unwrap();
    closed(&mut half).await;
    assert!(begin.elapsed() >= Duration::from_millis(300), "{:?}", begin.elapsed());
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_all_connections_send_at_once_stays_within_the_memory_for_it() {
    const LIMIT_BYTES: usize = 8 << 20;
    let buffers = PayloadBuffers::within(LIMIT_BYTES);
    let of_server = buffers.clone();
    let server = Server::start(|options| {
        patience(LIMIT * 10, LIMIT * 10)(options);
        options.buffers = of_server;
    })
    .await;
    let mut senders = Vec::new();
    for _ in 0..30 {
        let stream = hello(server.address, ServiceKind::Data, 7).await.unwrap();
        senders.push(tokio::spawn(async move {
            let mut stream = stream;
            stream.write_all(&half_a_frame(1 << 20)).await.unwrap();
            stream
        }));
    }
    until("they use what there is", || buffers.budget().is_short()).await;
    // Besides payloads, each has a buffer that it reads into.
    let most = LIMIT_BYTES + (1 << 20) + 30 * (64 << 10);
    assert!(buffers.budget().used() <= most, "{} bytes", buffers.budget().used());
    // Who brings nothing is served.
    assert_eq!(ping(&connect(server.address)).await, Ok(()));
    // Who brings something is when they are gone.
    let client = connect(server.address);
    let payload = Bytes::from(vec![2; 1 << 20]);
    let mine = Payload::from(payload.clone());
    let echo =
        client.call(LIMIT, |client, context| async move { client.echo(context, 5, mine.clone()).await });
    senders.iter().for_each(tokio::task::JoinHandle::abort);
    drop(senders);
    let (number, back) = echo.await.unwrap();
    assert!(number == 5 && back.into_bytes() == payload);
    until("all is given back", || buffers.budget().used() <= 2 * (64 << 10)).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_memory_is_short_half_a_frame_is_not_waited_for() {
    // Four payloads, and what each connection reads into.
    let buffers = PayloadBuffers::within((4 << 20) + 8 * (64 << 10));
    let of_server = buffers.clone();
    let server = Server::start(|options| {
        patience(LIMIT * 10, Duration::from_millis(100))(options);
        options.buffers = of_server;
    })
    .await;
    let mut senders = Vec::new();
    for _ in 0..4 {
        let mut stream = hello(server.address, ServiceKind::Data, 7).await.unwrap();
        stream.write_all(&half_a_frame(1 << 20)).await.unwrap();
        senders.push(stream);
    }
    until("they use what there is", || buffers.budget().used() >= 4 << 20).await;
    // They could go on like that, as long as nobody else comes.
    assert!(!buffers.budget().is_short());
    let client = connect(server.address);
    let mine = Payload::from(Bytes::from(vec![2; 1 << 20]));
    let echo =
        client.call(LIMIT, |client, context| async move { client.echo(context, 5, mine.clone()).await });
    assert_eq!(echo.await.unwrap().0, 5);
    server.stop().await;
}

/// Found by review: a hundred mounts that share a network would each have been ended, again and again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_slow_and_goes_on_is_waited_for_also_while_memory_is_short() {
    let buffers = PayloadBuffers::within(6 << 20);
    let of_server = buffers.clone();
    let pressed = Duration::from_millis(500);
    let server = Server::start(|options| {
        patience(LIMIT * 10, pressed)(options);
        options.buffers = of_server;
    })
    .await;
    // It takes a buffer for the largest payload.
    let bytes = [&half_a_frame(4 << 20)[..], &vec![1; 2 << 20]].concat();
    let mut slow = hello(server.address, ServiceKind::Data, 7).await.unwrap();
    slow.write_all(&bytes[..100_000]).await.unwrap();
    until("it has its memory", || buffers.budget().used() >= 4 << 20).await;
    let client = connect(server.address);
    let echo = tokio::spawn(async move {
        let mine = Payload::from(Bytes::from(vec![2; 1 << 20]));
        client.call(LIMIT, |client, context| async move { client.echo(context, 5, mine.clone()).await }).await
    });
    until("somebody waits", || buffers.budget().is_short()).await;
    let begin = Instant::now();
    for piece in bytes[100_000..].chunks(100_000) {
        tokio::time::sleep(Duration::from_millis(40)).await;
        slow.write_all(piece).await.expect("it is not ended");
    }
    assert!(begin.elapsed() > pressed * 2, "it was looked at more than once");
    // It is no message; when that is seen, the other one gets its memory.
    assert_eq!(echo.await.unwrap().unwrap().0, 5);
    server.stop().await;
}

/// Found by review: all hold what they have of a header, and wait for room for more of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn those_who_wait_for_each_other_are_ended() {
    let buffers = PayloadBuffers::within(1 << 20);
    let of_server = buffers.clone();
    let server = Server::start(|options| {
        patience(Duration::from_millis(700), Duration::from_millis(100))(options);
        options.buffers = of_server;
    })
    .await;
    let mut fixed = fixed_part(FrameKind::Message, b"", 0).unwrap();
    fixed[8..12].copy_from_slice(&(2_u32 << 20).to_be_bytes());
    let begun = [&fixed[..], &vec![1; 300_000]].concat();
    let mut all = Vec::new();
    for _ in 0..6 {
        let mut stream = hello(server.address, ServiceKind::Data, 7).await.unwrap();
        stream.write_all(&begun[..200_000]).await.unwrap();
        all.push(stream);
    }
    until("they have all there is", || buffers.budget().used() >= 1 << 20).await;
    for stream in &mut all {
        // Some are ended already.
        let _ = stream.write_all(&begun[200_000..]).await;
    }
    for stream in &mut all {
        closed(stream).await;
    }
    let mine = Payload::from(Bytes::from(vec![2; 1 << 20]));
    let client = connect(server.address);
    let echo =
        client.call(LIMIT, |client, context| async move { client.echo(context, 5, mine.clone()).await });
    assert_eq!(echo.await.unwrap().0, 5);
    server.stop().await;
}
