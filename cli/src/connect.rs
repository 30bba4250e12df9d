//! Short connections to daemons, for questions that must be answered soon or not at all.

use cairn_common::config::{Address, DATA_PORT, META_PORT};
use cairn_common::ids::ClusterId;
use cairn_common::proto::data::DataStub;
use cairn_common::proto::meta::MetaStub;
use cairn_common::rpc::{ConnectOptions, Reconnecting};
use cairn_common::wire::hello::{Identity, ServiceKind};
use std::time::Duration;

/// Longest wait for one daemon, connecting included.
pub const PATIENCE: Duration = Duration::from_millis(1500);

/// How the command introduces itself.
const ROLE: &str = "cairn";

/// A client of metadata daemons.
pub fn meta(addresses: Vec<Address>) -> Reconnecting<MetaStub> {
    let identity = Identity::new(ServiceKind::Meta, ClusterId::default(), ROLE);
    let options = ConnectOptions::new(addresses, META_PORT, identity);
    Reconnecting::new(options, MetaStub::from)
}

/// A client of one data daemon.
pub fn data(address: Address) -> Reconnecting<DataStub> {
    let identity = Identity::new(ServiceKind::Data, ClusterId::default(), ROLE);
    let options = ConnectOptions::new(vec![address], DATA_PORT, identity);
    Reconnecting::new(options, DataStub::from)
}
