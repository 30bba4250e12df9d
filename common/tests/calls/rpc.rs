//! Calls, payloads, deadlines and reconnecting over real sockets.

use crate::support::{EchoCalls, Server, UNAVAILABLE, connect, connect_with, options, ping, until};
use bytes::Bytes;
use cairn_common::error::FsError;
use cairn_common::limits::{FRAME_HEADER_MAX, FRAME_PAYLOAD_MAX};
use cairn_common::rpc::{LinkState, Pool, context_within};
use cairn_common::wire::Payload;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(10);

fn pattern(len: usize) -> Bytes {
    (0..len).map(|i| u8::try_from(i * 7 % 251).unwrap()).collect::<Vec<u8>>().into()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn payloads_of_several_segments_come_back_whole() {
    let server = Server::start(|_| ()).await;
    let client = connect(server.address);
    let sizes: [&[usize]; 6] = [&[], &[0], &[1], &[100, 0, 5000], &[70_000; 20], &[FRAME_PAYLOAD_MAX - 1, 1]];
    for (number, sizes) in (0..).zip(sizes) {
        let segments: Vec<Bytes> = sizes.iter().map(|&len| pattern(len)).collect();
        let sent = Payload::from_segments(segments);
        let request = sent.clone();
        let (back_number, back) = client
            .call(LIMIT, |stub, context| async move { stub.echo(context, number, request).await })
            .await
            .unwrap();
        assert_eq!(back_number, number);
        assert!(back.segments().len() <= 1, "a received payload is one segment");
        assert!(back.into_bytes() == sent.into_bytes(), "sizes {sizes:?}");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_calls_at_once_get_their_own_answers() {
    let server = Server::start(|options| options.in_flight = 8).await;
    let client = connect(server.address);
    let calls = (0..300_u32).map(|number| {
        let client = client.clone();
        tokio::spawn(async move {
            let payload = Payload::from(pattern(usize::try_from(number).unwrap() * 331));
            let request = payload.clone();
            let answer = client
                .call(LIMIT, |stub, context| async move { stub.echo(context, number, request).await })
                .await
                .unwrap();
            assert!(answer.0 == number && answer.1.into_bytes() == payload.into_bytes());
        })
    });
    for call in calls.collect::<Vec<_>>() {
        call.await.unwrap();
    }
    server.stop().await;
}

#[tokio::test]
async fn what_is_too_large_is_an_error_and_the_connection_lives() {
    let server = Server::start(|_| ()).await;
    let client = connect(server.address);
    let live = client.get_within(LIMIT).await.unwrap();
    let huge = Payload::from(Bytes::from(vec![0; FRAME_PAYLOAD_MAX + 1]));
    let sent = client.call(LIMIT, |stub, context| async move { stub.echo(context, 1, huge).await }).await;
    assert_eq!(sent.unwrap_err(), FsError::TooBig);
    let len = u64::try_from(FRAME_HEADER_MAX).unwrap();
    let reply = client.call(LIMIT, |stub, context| async move { stub.header(context, len).await }).await;
    assert_eq!(reply.unwrap_err(), FsError::Io, "the server could not send its answer");
    let fits = len - 100;
    let reply = client.call(LIMIT, |stub, context| async move { stub.header(context, fits).await }).await;
    assert_eq!(reply.unwrap().len(), FRAME_HEADER_MAX - 100);
    assert_eq!(client.get_within(LIMIT).await.unwrap().generation(), live.generation());
    server.stop().await;
}

#[tokio::test]
async fn a_deadline_ends_the_call_and_the_handler() {
    let server = Server::start(|_| ()).await;
    let client = connect(server.address);
    let begin = Instant::now();
    let limit = Duration::from_millis(100);
    let answer = client.call(limit, |stub, context| async move { stub.wait(context, 60_000).await }).await;
    assert_eq!(answer, Err(FsError::TimedOut));
    assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
    until("the handler ends", || server.counters.running.load(Ordering::SeqCst) == 0).await;
    assert_eq!(ping(&client).await, Ok(()), "the connection lives");
    server.stop().await;
}

#[tokio::test]
async fn a_mutation_survives_its_caller() {
    let server = Server::start(|_| ()).await;
    let client = connect(server.address);
    let limit = Duration::from_millis(30);
    let answer = client.call(limit, |stub, context| async move { stub.mutate(context, 200).await }).await;
    assert_eq!(answer, Err(FsError::TimedOut));
    drop(client);
    until("the mutation ends", || server.counters.mutations.load(Ordering::SeqCst) == 1).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_in_flight_fail_at_once_when_the_server_ends_and_the_next_reconnects() {
    let server = Server::start(|options| options.grace = Duration::ZERO).await;
    let (address, counters) = (server.address, server.counters.clone());
    let client = connect(address);
    assert_eq!(ping(&client).await, Ok(()));
    let mut generations = client.generations();
    assert_eq!(*generations.borrow_and_update(), 1);
    let waiting = {
        let client = client.clone();
        tokio::spawn(async move {
            client.call(LIMIT, |stub, context| async move { stub.wait(context, 60_000).await }).await
        })
    };
    until("the call arrives", || counters.running.load(Ordering::SeqCst) == 1).await;
    let begin = Instant::now();
    server.stop().await;
    assert_eq!(waiting.await.unwrap(), UNAVAILABLE);
    assert!(begin.elapsed() < Duration::from_secs(2), "{:?}", begin.elapsed());

    assert_eq!(client.get_within(Duration::from_millis(300)).await.err(), Some(FsError::Unavailable));
    assert!(matches!(client.state(), LinkState::Connecting { failed_attempts: 1.., last_error: Some(_) }));
    let later = {
        let client = client.clone();
        tokio::spawn(async move { client.get().await.unwrap().generation() })
    };
    let server = Server::start_at(address, |_| ()).await;
    assert_eq!(later.await.unwrap(), 2);
    assert_eq!(ping(&client).await, Ok(()));
    generations.changed().await.unwrap();
    assert_eq!(*generations.borrow(), 2);
    assert!(matches!(client.state(), LinkState::Up { generation: 2, .. }));
    server.stop().await;
}

#[tokio::test]
async fn a_connection_given_up_is_replaced_but_an_older_one_is_not_blamed_on_it() {
    let server = Server::start(|_| ()).await;
    let client = connect(server.address);
    let first = client.get_within(LIMIT).await.unwrap();
    client.invalidate(&first);
    first.broken().await;
    let second = client.get_within(LIMIT).await.unwrap();
    assert_eq!((first.generation(), second.generation()), (1, 2));
    client.on_error(&first, &tarpc::client::RpcError::Shutdown);
    assert_eq!(client.get_within(LIMIT).await.unwrap().generation(), 2);
    second.ping(context_within(LIMIT)).await.unwrap().unwrap();
    server.stop().await;
}

#[tokio::test]
async fn the_first_address_that_works_is_taken() {
    let server = Server::start(|_| ()).await;
    let dead = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut options = options(dead, 0);
    options.addresses.push(server.address.into());
    let client = connect_with(options);
    let live = client.get_within(LIMIT).await.unwrap();
    assert_eq!((live.peer().address, live.peer().role.as_str()), (server.address, "echo server"));
    server.stop().await;
}

#[tokio::test]
async fn a_pool_uses_its_connections_in_turn() {
    let server = Server::start(|_| ()).await;
    let pool = Pool::new(3, &options(server.address, 7), EchoCalls::from);
    for _ in 0..6 {
        pool.call(LIMIT, |stub, context| async move { stub.ping(context).await }).await.unwrap();
    }
    assert!(pool.states().iter().all(|state| matches!(state, LinkState::Up { generation: 1, .. })));
    server.stop().await;
}

#[tokio::test]
async fn a_shutdown_lets_running_requests_end() {
    let server = Server::start(|_| ()).await;
    let client = connect(server.address);
    let (caller, counters) = (client.clone(), server.counters.clone());
    let waiting = tokio::spawn(async move {
        caller.call(LIMIT, |stub, context| async move { stub.wait(context, 150).await }).await
    });
    until("the call arrives", || counters.running.load(Ordering::SeqCst) == 1).await;
    server.stop().await;
    assert_eq!(waiting.await.unwrap(), Ok(()));
}
