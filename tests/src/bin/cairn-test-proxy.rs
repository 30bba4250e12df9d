//! A network that fails on purpose, for tests with real processes: `cairn-test-proxy TARGET CONTROL` forwards to TARGET and does
//! what lines that are written to the fifo CONTROL say:
//!
//! ```text
//! cut SEED FROM TO     connections are cut after so many bytes of one direction, drawn anew for each
//! mend                 they live on again
//! silence WHAT         requests, answers, both, or none: held back, on connections that stay
//! drop                 all connections are cut now
//! ```
//!
//! Its first line on standard output is `listening on ADDR`; after `mend` it says how many were cut so far.

#![allow(clippy::print_stdout, reason = "it answers on standard output")]

use anyhow::{Context as _, Result, bail};
use cairn_common::config::Address;
use cairn_tests::harness::{Proxy, Silence};
use std::fs::File;
use std::io::{BufRead, BufReader};

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [target, control] = arguments.as_slice() else { bail!("usage: cairn-test-proxy TARGET CONTROL") };
    let target: Address = target.parse().context("TARGET")?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let proxy = runtime.block_on(Proxy::new(target));
    println!("listening on {}", proxy.address());
    // For writing, too: it does not end when a writer goes away.
    let lines = File::options().read(true).write(true).open(control).context("open CONTROL")?;
    for line in BufReader::new(lines).lines() {
        obey(&proxy, &line.context("read CONTROL")?)?;
    }
    Ok(())
}

fn obey(proxy: &Proxy, line: &str) -> Result<()> {
    let words: Vec<&str> = line.split_whitespace().collect();
    match *words.as_slice() {
        ["cut", seed, from, to] => proxy.cut_after(seed.parse()?, from.parse()?..to.parse()?),
        ["mend"] => {
            proxy.mend();
            println!("{} cuts", proxy.cuts());
        }
        ["silence", what] => proxy.silence(match what {
            "requests" => Silence { requests: true, answers: false },
            "answers" => Silence { requests: false, answers: true },
            "both" => Silence::BOTH,
            "none" => Silence::NONE,
            _ => bail!("silence {what}?"),
        }),
        ["drop"] => proxy.cut_all(),
        _ => bail!("what is {line:?}?"),
    }
    Ok(())
}
