//! `cairn status`: asks the metadata daemon, then each data daemon itself.

use crate::connect::{self, PATIENCE};
use crate::view::{DataNode, Status};
use anyhow::{Result, bail};
use cairn_common::config::AddressList;
use cairn_common::proto::meta::{MetaStatus, NodeInfo};
use std::process::ExitCode;
use std::time::{Duration, Instant};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Metadata daemons, each a host and perhaps a port
    #[arg(long, value_name = "HOST[:PORT],...", env = "CAIRN_META", default_value = "localhost")]
    meta: AddressList,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Longest wait for the metadata daemon: of [`PATIENCE`], which is for all of it, some is left for the others.
const META_PATIENCE: Duration = Duration::from_millis(1000);
/// Exit code where something that should run does not.
const INCOMPLETE: u8 = 2;

/// Asks and prints. The exit code is 0 if all daemons answered.
///
/// # Errors
/// If the metadata daemon does not answer.
pub fn run(args: &Args) -> Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let status = runtime.block_on(ask(args));
    // The search for a name may still run, in a thread that nobody can stop.
    runtime.shutdown_background();
    let status = status?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&status)?);
    } else {
        print!("{status}");
    }
    Ok(if status.complete() { ExitCode::SUCCESS } else { ExitCode::from(INCOMPLETE) })
}

async fn ask(args: &Args) -> Result<Status> {
    let link = connect::meta(args.meta.0.clone());
    let start = Instant::now();
    let answer =
        link.call(META_PATIENCE, |client, context| async move { client.status(context).await }).await;
    let meta: MetaStatus = match answer {
        Ok(meta) => meta,
        Err(error) => bail!("metadata daemon at {} does not answer: {error}", args.meta),
    };
    let left = PATIENCE.saturating_sub(start.elapsed());
    let nodes = futures::future::join_all(meta.map.nodes.iter().map(|node| ask_node(node, left))).await;
    Ok(Status::new(&args.meta.to_string(), &meta, nodes))
}

/// What the daemon says itself; else its last report.
async fn ask_node(info: &NodeInfo, patience: Duration) -> DataNode {
    let answer = match info.address.parse() {
        Ok(address) => connect::data(address)
            .call(patience, |client, context| async move { client.stat(context).await })
            .await
            .ok(),
        Err(_) => None,
    };
    let answers = answer.is_some();
    DataNode::new(info, answer.as_ref().or(info.stat.as_ref()), answers)
}
