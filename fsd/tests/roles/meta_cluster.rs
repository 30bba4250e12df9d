//! Data daemons and volumes, as the metadata daemon keeps them; and both roles together.

use crate::data_common::copy_of;
use crate::meta_common::*;
use bytes::Bytes;
use cairn_common::config::{Address, DATA_PORT};
use cairn_common::error::FsError;
use cairn_common::ids::{BlockRef, ClusterId, NodeId, SessionId};
use cairn_common::proto::data::{DataStat, DataStub, GetRequest, PutRequest};
use cairn_common::proto::meta::{RegisterRequest, ReportRequest};
use cairn_common::rpc::{ConnectOptions, Reconnecting};
use cairn_common::wire::Payload;
use cairn_common::wire::checksum;
use cairn_common::wire::hello::{Identity, ServiceKind};
use cairn_fsd::config::DataConfig;
use cairn_fsd::node::{RunningData, start_data};
use std::path::Path;

fn stat(node: NodeId) -> DataStat {
    DataStat {
        node,
        capacity: 1000,
        available: 400,
        puts: 0,
        gets: 0,
        put_bytes: 0,
        get_bytes: 0,
        syncs: 0,
        volumes: Vec::new(),
    }
}

async fn register(
    link: &Link,
    node: Option<NodeId>,
    identity: u128,
    address: &str,
) -> Result<NodeId, FsError> {
    let request = RegisterRequest { node, identity, address: address.into() };
    ask(link, |c| async move { c.register(context(), request).await }).await.map(|reply| reply.node)
}

async fn report(link: &Link, node: NodeId, deleted: Vec<BlockRef>) -> Result<Vec<BlockRef>, FsError> {
    let request = ReportRequest { stat: stat(node), deleted };
    ask(link, |c| async move { c.report(context(), request).await }).await.map(|reply| reply.delete)
}

async fn map(link: &Link, known: u64) -> Option<cairn_common::proto::meta::ClusterMap> {
    ask(link, |c| async move { c.cluster_map(context(), known).await }).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_and_volumes_are_remembered_and_the_map_follows() {
    let mut server = Server::start(patient()).await;
    let link = server.connect();
    let node = register(&link, None, 11, "h:1").await.unwrap();
    assert_eq!(register(&link, None, 11, "h:1").await.unwrap(), node, "the answer was lost");
    assert_ne!(register(&link, None, 22, "h:2").await.unwrap(), node);
    assert_eq!(register(&link, Some(NodeId(77)), 33, "h:3").await, Err(FsError::WrongPeer));

    let first = map(&link, 0).await.unwrap();
    assert_eq!(first.nodes.len(), 2);
    assert!(!first.nodes[0].alive);
    assert_eq!(map(&link, first.epoch).await, None);
    let volume = ask(&link, |c| async move { c.create_volume(context(), node).await }).await.unwrap();
    let second = map(&link, first.epoch).await.unwrap();
    assert_eq!(second.volumes, [(volume, node)]);
    register(&link, Some(node), 11, "h:9").await.unwrap();
    let third = map(&link, second.epoch).await.unwrap();
    assert!(third.nodes.iter().any(|info| info.node == node && info.address == "h:9"));

    assert_eq!(report(&link, node, Vec::new()).await.unwrap(), []);
    assert_eq!(report(&link, NodeId(99), Vec::new()).await, Err(FsError::Stale));
    let status = server.status().await;
    assert!(status.map.nodes.iter().any(|info| info.node == node && info.alive && info.stat.is_some()));

    server.restart().await;
    let again = map(&link, third.epoch).await.unwrap();
    assert!(again.epoch > third.epoch);
    assert_eq!(again.volumes, third.volumes);
    let other = ask(&link, |c| async move { c.create_volume(context(), node).await }).await.unwrap();
    assert!(other > volume, "never given again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dead_blocks_are_handed_out_until_they_are_deleted() {
    let server = Server::start(patient()).await;
    let link = server.connect();
    let node = register(&link, None, 11, "h:1").await.unwrap();
    let volume = ask(&link, |c| async move { c.create_volume(context(), node).await }).await.unwrap();
    let mut mount = Mount::new(&server).await;
    let ino = mount.create("f", false).await;
    mount.op(commit(ino, block(volume.0, 1), 100)).await.unwrap();
    assert_eq!(report(&link, node, Vec::new()).await.unwrap(), []);
    mount.op(commit(ino, block(volume.0, 2), 100)).await.unwrap();
    let dead = vec![block(volume.0, 1)];
    assert_eq!(report(&link, node, Vec::new()).await.unwrap(), dead);
    let status = server.status().await;
    assert_eq!(status.delete_queue, 1);
    assert!(status.durable_index >= status.log_index, "what killed the block is durable: {status:?}");
    assert_eq!(report(&link, node, Vec::new()).await.unwrap(), dead, "again, until it is done");
    assert_eq!(report(&link, node, dead).await.unwrap(), []);
    assert_eq!(server.status().await.delete_queue, 0);
    assert_eq!(server.status().await.stat.capacity, 1000);
}

async fn data_daemon(server: &Server, dir: &Path) -> Result<RunningData, cairn_fsd::node::NodeError> {
    let listen = Address::new("127.0.0.1", 0);
    within(start_data(DataConfig::new(dir.to_owned(), listen, vec![server.address.clone()]))).await
}

fn data_link(node: &RunningData, cluster: ClusterId) -> Reconnecting<DataStub> {
    let identity = Identity::new(ServiceKind::Data, cluster, "test");
    let options = ConnectOptions::new(vec![node.address().into()], DATA_PORT, identity);
    Reconnecting::new(options, DataStub::from)
}

const PAYLOAD: &[u8] = b"hello";

async fn put(node: &RunningData, cluster: ClusterId) -> BlockRef {
    let payload = Bytes::from_static(PAYLOAD);
    let request = PutRequest {
        session: SessionId(1),
        summary_len: 0,
        checksums: checksum::piece_checksums(std::slice::from_ref(&payload)),
        payload: Payload::from(payload),
    };
    let link = data_link(node, cluster);
    within(link.call(LONG, |c, cx| async move { c.put(cx, request).await })).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_roles_together() {
    let mut server = Server::start(patient()).await;
    let dir = tempfile::tempdir().unwrap();
    let data = data_daemon(&server, dir.path()).await.unwrap();
    let alive = || async { server.status().await.map.nodes.iter().any(|info| info.alive) };
    eventually("the data daemon reports", alive).await;
    let status = server.status().await;
    assert!(status.stat.capacity > 0);

    let stored = put(&data, status.cluster).await;
    assert!(server.status().await.map.volumes.iter().any(|(volume, _)| *volume == stored.volume));

    // The metadata daemon away: blocks are still there. A restarted data daemon has its number again.
    server.stop().await;
    within(data.shutdown()).await.unwrap();
    let data = data_daemon(&server, dir.path()).await.unwrap();
    let link = data_link(&data, status.cluster);
    let get = GetRequest { block: stored, offset: 0, length: 5 };
    let reply = within(link.call(LONG, |c, cx| async move { c.get(cx, get).await })).await.unwrap();
    assert_eq!(reply.payload.into_bytes(), PAYLOAD);
    server.restart().await;
    let back = || async {
        let map = server.status().await.map;
        map.nodes.len() == 1 && map.nodes[0].alive && map.nodes[0].address == data.address().to_string()
    };
    eventually("the data daemon registers its new address", back).await;

    // Files use a block that an old copy of the directory lacks.
    let old = copy_of(dir.path());
    let mut mount = Mount::new(&server).await;
    let ino = mount.create("f", false).await;
    let newer = put(&data, status.cluster).await;
    mount.op(commit(ino, newer, 5)).await.unwrap();
    within(data.shutdown()).await.unwrap();
    let refused = data_daemon(&server, old.path()).await.map(|_served| ()).unwrap_err().to_string();
    assert!(refused.contains("old copy") && refused.contains(&newer.to_string()), "{refused}");
    let data = data_daemon(&server, dir.path()).await.unwrap();

    // Another cluster's directory is refused.
    within(data.shutdown()).await.unwrap();
    let other = Server::start(patient()).await;
    let refused = data_daemon(&other, dir.path()).await;
    assert!(refused.is_err_and(|error| error.to_string().contains("wrong peer")));
}
